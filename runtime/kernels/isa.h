#pragma once

#include <vector>

namespace actquant {

// What kernels are made of. A processor with one has those before it that are of its architecture,
// but for avx_vnni, which those with AVX-512 need not have.
enum class Isa {
    ggml,     // no kernels of ours: ggml's own operators, to compare with
    baseline, // what the build's target has; on aarch64 NEON
    avx2,     // with FMA and F16C
    avx_vnni,
    avx512, // F, BW, DQ, VL
    avx512_vnni,
    avx512_bf16,
    neon_dot,
    neon_i8mm,
};

const char* isa_name(Isa isa);

// Those of this processor, from the plainest to the best.
std::vector<Isa> present_isas();

// The best one that this processor has and that ACTQUANT_ISA, where it is set, allows.
// Throws ArgumentError if ACTQUANT_ISA names none of this architecture.
Isa usable_isa();

} // namespace actquant
