#include "kernels/activations.h"

namespace actquant {

extern const ActivationKernels activations_baseline;
#if defined(__x86_64__)
extern const ActivationKernels activations_avx2;
extern const ActivationKernels activations_avx512;
#endif

const ActivationKernels& activation_kernels([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
    if (isa >= Isa::avx512) {
        return activations_avx512;
    }
    if (isa >= Isa::avx2) {
        return activations_avx2;
    }
#endif
    return activations_baseline;
}

} // namespace actquant
