// Normalisations for one instruction set. Included by norms_*.cpp, which define
//   ACTQUANT_VECTOR_FLOATS  floats of a vector
//   ACTQUANT_KERNEL
#pragma once

#include "kernels/norms.h"
#include "kernels/vector.h"

#include <cmath>

namespace actquant {
namespace {

// The sum of (x − middle)², or of x − middle.
template <bool SQUARED> float sum_around(const float* x, float middle, int64_t width) {
    Vec sums[4] = {};
    int64_t k = 0;
    for (; k + 4 * W <= width; k += 4 * W) {
        for (int64_t i = 0; i < 4; i++) {
            Vec difference = load(x + k + i * W) - middle;
            sums[i] += SQUARED ? difference * difference : difference;
        }
    }
    float rest = 0.0f;
    for (; k < width; k++) {
        float difference = x[k] - middle;
        rest += SQUARED ? difference * difference : difference;
    }
    return sum_of_elements((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest;
}

// y = (x − middle) · factor · scale + shift
void put(const float* x, float middle, float factor, const float* scale, const float* shift,
         int64_t width, float* y) {
    int64_t k = 0;
    for (; k + W <= width; k += W) {
        Vec value = (load(x + k) - middle) * factor;
        value = scale == nullptr ? value : value * load(scale + k);
        store(y + k, shift == nullptr ? value : value + load(shift + k));
    }
    for (; k < width; k++) {
        float value = (x[k] - middle) * factor;
        value = scale == nullptr ? value : value * scale[k];
        y[k] = shift == nullptr ? value : value + shift[k];
    }
}

void rms_norm(const float* x, const float* scale, float eps, int64_t width, float* y) {
    float mean = sum_around<true>(x, 0.0f, width) / static_cast<float>(width);
    put(x, 0.0f, 1.0f / sqrtf(mean + eps), scale, nullptr, width, y);
}

void layer_norm(const float* x, const float* scale, const float* shift, float eps, int64_t width,
                float* y) {
    float count = static_cast<float>(width);
    float mean = sum_around<false>(x, 0.0f, width) / count;
    float variance = sum_around<true>(x, mean, width) / count;
    put(x, mean, 1.0f / sqrtf(variance + eps), scale, shift, width, y);
}

} // namespace

extern const NormKernels ACTQUANT_KERNEL;
const NormKernels ACTQUANT_KERNEL = {rms_norm, layer_norm};

} // namespace actquant
