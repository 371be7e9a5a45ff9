#include "kernels/norms.h"

namespace actquant {

extern const NormKernels norms_baseline;
#if defined(__x86_64__)
extern const NormKernels norms_avx2;
extern const NormKernels norms_avx512;
#endif

const NormKernels& norm_kernels([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
    if (isa >= Isa::avx512) {
        return norms_avx512;
    }
    if (isa >= Isa::avx2) {
        return norms_avx2;
    }
#endif
    return norms_baseline;
}

} // namespace actquant
