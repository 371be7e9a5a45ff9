// Activations for one instruction set. Included by activations_*.cpp, which define
//   ACTQUANT_VECTOR_FLOATS  floats of a vector
//   ACTQUANT_KERNEL
#pragma once

#include "kernels/activations.h"
#include "kernels/vector.h"

namespace actquant {
namespace {

// x/2 · (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/π)·(x + 0.044715·x³).
inline Vec gelu_tanh_of(Vec x) {
    Vec u2 = 1.5957691216057308f * (x + 0.044715f * x * x * x);
    return x / (1.0f + exponential(smaller(all(88.0f), -u2)));
}

// tanh(log(1 + e)) = (e² + 2e) / (e² + 2e + 2); above 20 it is 1 in f32, and e² would overflow.
inline Vec mish_of(Vec x) {
    Vec e = exponential(smaller(all(20.0f), x));
    Vec n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
}

// What is left behind whole vectors.
inline Vec load_part(const float* from, int64_t count) {
    Vec x = Vec{};
    std::memcpy(&x, from, static_cast<size_t>(count) * sizeof(float));
    return x;
}

inline void store_part(float* to, Vec x, int64_t count) {
    std::memcpy(to, &x, static_cast<size_t>(count) * sizeof(float));
}

template <Vec (*Function)(Vec)> void map(const float* x, float* y, int64_t count) {
    int64_t k = 0;
    for (; k + W <= count; k += W) {
        store(y + k, Function(load(x + k)));
    }
    store_part(y + k, Function(load_part(x + k, count - k)), count - k);
}

void gelu_tanh_times(const float* x, const float* gate, float* y, int64_t count) {
    int64_t k = 0;
    for (; k + W <= count; k += W) {
        store(y + k, gelu_tanh_of(load(x + k)) * load(gate + k));
    }
    Vec last = gelu_tanh_of(load_part(x + k, count - k)) * load_part(gate + k, count - k);
    store_part(y + k, last, count - k);
}

} // namespace

extern const ActivationKernels ACTQUANT_KERNEL;
const ActivationKernels ACTQUANT_KERNEL = {map<gelu_tanh_of>, gelu_tanh_times, map<mish_of>};

} // namespace actquant
