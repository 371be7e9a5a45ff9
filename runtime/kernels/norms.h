#pragma once

#include "kernels/isa.h"

#include <cstdint>

namespace actquant {

// Normalisations of one row of `width` floats; scale and shift [width] may be null.
struct NormKernels {
    // y = x / √(mean(x²) + eps) · scale
    void (*rms_norm)(const float* x, const float* scale, float eps, int64_t width, float* y);
    // y = (x − mean) / √(variance + eps) · scale + shift
    void (*layer_norm)(const float* x, const float* scale, const float* shift, float eps,
                       int64_t width, float* y);
};

const NormKernels& norm_kernels(Isa isa);

} // namespace actquant
