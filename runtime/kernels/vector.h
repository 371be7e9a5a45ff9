// Vectors of ACTQUANT_VECTOR_FLOATS floats, in GCC's and Clang's vector extension.
//
// Included only by files that are compiled for one instruction set. All is in an anonymous
// namespace, and nothing of the standard library's templates is used: the linker keeps one copy of
// an inline function, which might be the one that older processors cannot run.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace actquant {
namespace {

constexpr int64_t W = ACTQUANT_VECTOR_FLOATS;

typedef float Vec __attribute__((vector_size(4 * W)));
typedef int32_t IntVec __attribute__((vector_size(4 * W)));
typedef uint32_t WordVec __attribute__((vector_size(4 * W)));
typedef uint16_t HalfVec __attribute__((vector_size(2 * W)));

inline Vec load(const void* from) {
    Vec x;
    std::memcpy(&x, from, sizeof(x));
    return x;
}

template <typename Any> inline void store(void* to, Any x) {
    std::memcpy(to, &x, sizeof(x));
}

inline Vec all(float x) {
    return x - Vec{};
}

// What lies there may have changed.
inline void forget(const void* memory) {
    asm volatile("" : : "r"(memory) : "memory");
}

// b where one of them is NaN.
inline Vec larger(Vec a, Vec b) {
#if defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_max_ps(a, b);
#else
    return a > b ? a : b;
#endif
}

// b where one of them is NaN.
inline Vec smaller(Vec a, Vec b) {
#if defined(__AVX512F__)
    return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_min_ps(a, b);
#else
    return a < b ? a : b;
#endif
}

inline float largest_element(Vec x) {
    float result = x[0];
    for (int64_t k = 1; k < W; k++) {
        result = x[k] > result ? x[k] : result;
    }
    return result;
}

inline float sum_of_elements(Vec x) {
    float result = 0.0f;
    for (int64_t k = 0; k < W; k++) {
        result += x[k];
    }
    return result;
}

// exp(x) to 2 ulp for x up to 88; below -87 it stays there, and NaN is NaN. Cephes' expf.
inline Vec exponential(Vec x) {
    x = larger(all(-87.0f), x);
    // Adding and taking away 1.5·2^23 rounds to the nearest integer.
    Vec n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    IntVec power = (__builtin_convertvector(n, IntVec) + 127) << 23;
    return p * (Vec)power;
}

// exp(x) to 5e-5, for what is rounded to bfloat16; limits as above.
inline Vec coarse_exponential(Vec x) {
    Vec scaled = larger(all(-87.0f), x) * 1.44269504088896341f;
    Vec shifted = scaled + 12582912.0f;
    Vec f = scaled - (shifted - 12582912.0f);
    Vec p = all(9.6181291e-3f);
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    // The lowest bits of `shifted` are the power of two.
    return (Vec)((IntVec)p + ((IntVec)shifted << 23));
}

// To the nearest bfloat16, ties to even.
inline HalfVec bfloat16(Vec x) {
#ifdef __AVX512BF16__
    return (HalfVec)_mm512_cvtneps_pbh(x);
#else
    WordVec bits = (WordVec)x;
    return __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, HalfVec);
#endif
}

} // namespace
} // namespace actquant
