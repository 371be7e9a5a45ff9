#pragma once

#include <cstdint>

struct ggml_tensor;

namespace actquant {

// Activations that ggml lacks, or computes less exactly than f32: its CPU kernel for the tanh form
// of GELU looks the result up in an f16 table. Signatures of ggml_map_custom1 and ggml_map_custom2;
// contiguous f32 tensors.

// result = gelu_tanh(x)
void gelu_tanh(ggml_tensor* result, const ggml_tensor* x, int thread, int threads, void*);
// values = gelu_tanh(values)
void gelu_tanh_in_place(float* values, int64_t count);
// result = gelu_tanh(x) · gate
void gelu_tanh_times(ggml_tensor* result, const ggml_tensor* x, const ggml_tensor* gate, int thread,
                     int threads, void*);
// result = x · tanh(softplus(x))
void mish(ggml_tensor* result, const ggml_tensor* x, int thread, int threads, void*);

} // namespace actquant
