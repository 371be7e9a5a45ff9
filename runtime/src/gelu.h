#pragma once

struct ggml_tensor;

namespace actquant {

// ggml's CPU kernel for the tanh form of GELU looks the result up in an f16 table; these are exact
// to f32 rounding. Signatures of ggml_map_custom1 and ggml_map_custom2; contiguous f32 tensors.

// result = gelu_tanh(x)
void gelu_tanh(ggml_tensor* result, const ggml_tensor* x, int thread, int threads, void*);
// result = gelu_tanh(x) · gate
void gelu_tanh_times(ggml_tensor* result, const ggml_tensor* x, const ggml_tensor* gate, int thread,
                     int threads, void*);

} // namespace actquant
