#include "operators/activations.h"

#include <ggml.h>

#include <algorithm>
#include <bit>
#include <cstdint>

namespace actquant {
namespace {

// exp(x) to 2 ulp for x in [-87, 88], written so that compilers vectorise it. Cephes' expf.
inline float exponential(float x) {
    x = std::min(std::max(x, -87.0f), 88.0f);
    // Adding and taking away 1.5·2^23 rounds to the nearest integer.
    float n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    float power_of_two = std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
    return p * power_of_two;
}

// x/2 · (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/π)·(x + 0.044715·x³).
inline float gelu_tanh_element(float x) {
    constexpr float two_sqrt_2_over_pi = 1.5957691216057308f;
    float u2 = two_sqrt_2_over_pi * (x + 0.044715f * x * x * x);
    return x / (1.0f + exponential(-u2));
}

// tanh(log(1 + e)) = (e² + 2e) / (e² + 2e + 2); above 20 it is 1 in f32, and e² would overflow.
inline float mish_element(float x) {
    float e = exponential(std::min(x, 20.0f));
    float n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
}

struct Part {
    int64_t first;
    int64_t end;
};

Part part_of(const ggml_tensor* tensor, int thread, int threads) {
    int64_t count = ggml_nelements(tensor);
    int64_t size = (count + threads - 1) / threads;
    return {std::min(count, thread * size), std::min(count, (thread + 1) * size)};
}

} // namespace

void gelu_tanh(ggml_tensor* result, const ggml_tensor* x, int thread, int threads, void*) {
    const float* in = static_cast<const float*>(x->data);
    float* out = static_cast<float*>(result->data);
    Part part = part_of(result, thread, threads);
    for (int64_t k = part.first; k < part.end; k++) {
        out[k] = gelu_tanh_element(in[k]);
    }
}

void gelu_tanh_in_place(float* values, int64_t count) {
    for (int64_t k = 0; k < count; k++) {
        values[k] = gelu_tanh_element(values[k]);
    }
}

void gelu_tanh_times(ggml_tensor* result, const ggml_tensor* x, const ggml_tensor* gate, int thread,
                     int threads, void*) {
    const float* in = static_cast<const float*>(x->data);
    const float* factor = static_cast<const float*>(gate->data);
    float* out = static_cast<float*>(result->data);
    Part part = part_of(result, thread, threads);
    for (int64_t k = part.first; k < part.end; k++) {
        out[k] = gelu_tanh_element(in[k]) * factor[k];
    }
}

void mish(ggml_tensor* result, const ggml_tensor* x, int thread, int threads, void*) {
    const float* in = static_cast<const float*>(x->data);
    float* out = static_cast<float*>(result->data);
    Part part = part_of(result, thread, threads);
    for (int64_t k = part.first; k < part.end; k++) {
        out[k] = mish_element(in[k]);
    }
}

} // namespace actquant
