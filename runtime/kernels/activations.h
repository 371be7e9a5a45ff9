#pragma once

#include "kernels/isa.h"

#include <cstdint>

namespace actquant {

// Activations that ggml lacks, or computes less exactly than f32: its CPU kernel for the tanh form
// of GELU looks the result up in an f16 table. y may be x.
struct ActivationKernels {
    void (*gelu_tanh)(const float* x, float* y, int64_t count);
    // y = gelu_tanh(x) · gate
    void (*gelu_tanh_times)(const float* x, const float* gate, float* y, int64_t count);
    // y = x · tanh(softplus(x))
    void (*mish)(const float* x, float* y, int64_t count);
};

const ActivationKernels& activation_kernels(Isa isa);

} // namespace actquant
