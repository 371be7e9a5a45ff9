#pragma once

#include <string>

namespace actquant {

// What kernels are made of. A processor with one has those before it, but for avx_vnni, which those
// with AVX-512 need not have.
enum class Isa {
    ggml,     // no kernels of ours: ggml's own operators, to compare with
    baseline, // what the build's target has
    avx2,     // with FMA and F16C
    avx_vnni,
    avx512, // F, BW, DQ, VL
    avx512_vnni,
    avx512_bf16,
};

const char* isa_name(Isa isa);

bool has_avx_vnni();

// The best one that this processor has and that ACTQUANT_ISA, where it is set, allows.
// Throws ArgumentError if ACTQUANT_ISA names none.
Isa usable_isa();

} // namespace actquant
