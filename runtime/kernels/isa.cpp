#include "kernels/isa.h"

#include "common/error.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace actquant {
namespace {

constexpr std::array<const char*, 7> names = {"ggml",   "baseline",    "avx2",       "avx_vnni",
                                              "avx512", "avx512_vnni", "avx512_bf16"};

Isa present_isa() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                __builtin_cpu_supports("f16c");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!avx2) {
        return Isa::baseline;
    }
    if (!avx512) {
        return has_avx_vnni() ? Isa::avx_vnni : Isa::avx2;
    }
    if (!__builtin_cpu_supports("avx512vnni")) {
        return Isa::avx512;
    }
    return __builtin_cpu_supports("avx512bf16") ? Isa::avx512_bf16 : Isa::avx512_vnni;
#else
    return Isa::baseline;
#endif
}

} // namespace

bool has_avx_vnni() {
#if defined(__x86_64__)
    // Not by __builtin_cpu_supports: GCC 12 does not know the name.
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & 1u << 4) != 0;
#else
    return false;
#endif
}

const char* isa_name(Isa isa) {
    return names[static_cast<size_t>(isa)];
}

Isa usable_isa() {
    const char* cap = std::getenv("ACTQUANT_ISA");
    if (cap == nullptr || *cap == '\0') {
        return present_isa();
    }
    for (size_t k = 0; k < names.size(); k++) {
        if (std::string(cap) == names[k]) {
            Isa allowed = std::min(static_cast<Isa>(k), present_isa());
            return allowed == Isa::avx_vnni && !has_avx_vnni() ? Isa::avx2 : allowed;
        }
    }
    std::string known;
    for (const char* name : names) {
        known += std::string(known.empty() ? "" : ", ") + name;
    }
    throw ArgumentError("ACTQUANT_ISA is '" + std::string(cap) + "'; there are: " + known);
}

} // namespace actquant
