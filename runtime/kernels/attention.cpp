#include "kernels/attention.h"

namespace actquant {

extern const AttentionKernel attention_baseline;
#if defined(__x86_64__)
extern const AttentionKernel attention_avx2;
extern const AttentionKernel attention_avx512;
extern const AttentionKernel attention_avx512_bf16;
#endif

const AttentionKernel& attention_kernel([[maybe_unused]] Isa isa, [[maybe_unused]] bool rounded) {
#if defined(__x86_64__)
    if (isa >= Isa::avx512_bf16 && rounded) {
        return attention_avx512_bf16;
    }
    if (isa >= Isa::avx512) {
        return attention_avx512;
    }
    if (isa >= Isa::avx2) {
        return attention_avx2;
    }
#endif
    return attention_baseline;
}

} // namespace actquant
