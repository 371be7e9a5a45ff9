#include "kernels/panel_product.h"

namespace actquant {

#if defined(__x86_64__)
extern const PanelKernel int8_avx2;
extern const PanelKernel int8_avx_vnni;
extern const PanelKernel int8_avx512_vnni;
extern const PanelKernel bfloat16_avx512_bf16;
#elif defined(__aarch64__)
extern const PanelKernel int8_neon_dot;
extern const PanelKernel int8_neon_i8mm;
#endif

const PanelKernel* int8_kernel([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
    if (isa >= Isa::avx512_vnni) {
        return &int8_avx512_vnni;
    }
    if (isa == Isa::avx_vnni) {
        return &int8_avx_vnni;
    }
    if (isa >= Isa::avx2) {
        return &int8_avx2;
    }
#elif defined(__aarch64__)
    if (isa >= Isa::neon_i8mm) {
        return &int8_neon_i8mm;
    }
    if (isa >= Isa::neon_dot) {
        return &int8_neon_dot;
    }
#endif
    return nullptr;
}

const PanelKernel* bfloat16_kernel([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
    if (isa >= Isa::avx512_bf16) {
        return &bfloat16_avx512_bf16;
    }
#endif
    return nullptr;
}

} // namespace actquant
