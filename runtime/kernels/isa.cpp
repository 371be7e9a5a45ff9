#include "kernels/isa.h"

#include "common/error.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace actquant {
namespace {

constexpr std::array<const char*, 9> names = {"ggml",        "baseline", "avx2",
                                              "avx_vnni",    "avx512",   "avx512_vnni",
                                              "avx512_bf16", "neon_dot", "neon_i8mm"};

#if defined(__x86_64__)

constexpr std::array architecture = {Isa::ggml,   Isa::baseline,    Isa::avx2,       Isa::avx_vnni,
                                     Isa::avx512, Isa::avx512_vnni, Isa::avx512_bf16};

bool has_avx_vnni() {
    // Not by __builtin_cpu_supports: GCC 12 does not know the name.
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & 1u << 4) != 0;
}

// Without what it builds on.
bool has(Isa isa) {
    switch (isa) {
    case Isa::avx2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __builtin_cpu_supports("f16c");
    case Isa::avx_vnni:
        return has_avx_vnni();
    case Isa::avx512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case Isa::avx512_vnni:
        return __builtin_cpu_supports("avx512vnni");
    case Isa::avx512_bf16:
        return __builtin_cpu_supports("avx512bf16");
    default:
        return true;
    }
}

#elif defined(__aarch64__)

constexpr std::array architecture = {Isa::ggml, Isa::baseline, Isa::neon_dot, Isa::neon_i8mm};

bool has([[maybe_unused]] Isa isa) {
#if defined(__linux__)
    // HWCAP_ASIMDDP and HWCAP2_I8MM, which older headers lack.
    if (isa == Isa::neon_dot) {
        return (getauxval(AT_HWCAP) & 1ul << 20) != 0;
    }
    if (isa == Isa::neon_i8mm) {
        return (getauxval(AT_HWCAP2) & 1ul << 13) != 0;
    }
#endif
    return isa <= Isa::baseline;
}

#else

constexpr std::array architecture = {Isa::ggml, Isa::baseline};

bool has(Isa) {
    return true;
}

#endif

} // namespace

const char* isa_name(Isa isa) {
    return names[static_cast<size_t>(isa)];
}

std::vector<Isa> present_isas() {
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    std::vector<Isa> found;
    for (Isa isa : architecture) {
        if (has(isa)) {
            found.push_back(isa);
        } else if (isa != Isa::avx_vnni) {
            break;
        }
    }
    return found;
}

Isa usable_isa() {
    std::vector<Isa> present = present_isas();
    const char* cap = std::getenv("ACTQUANT_ISA");
    if (cap == nullptr || *cap == '\0') {
        return present.back();
    }
    std::string known;
    for (Isa isa : architecture) {
        if (std::string(cap) == isa_name(isa)) {
            auto above = std::upper_bound(present.begin(), present.end(), isa);
            return *(above - 1);
        }
        known += std::string(known.empty() ? "" : ", ") + isa_name(isa);
    }
    throw ArgumentError("ACTQUANT_ISA is '" + std::string(cap) + "'; there are: " + known);
}

} // namespace actquant
