// Blocks to floats for one instruction set, AVX2, AVX-512 or NEON. Of every type the integers are
// unpacked 32 at a time and multiplied by the scale of their part, in the order in which ggml
// multiplies. Included by dequantize_*.cpp, which define ACTQUANT_TO_FLOAT, the function's name.
#pragma once

#define GGML_COMMON_DECL_CPP
#include <ggml-common.h>
#define GGML_COMMON_IMPL_CPP
#include <ggml-common.h>

#include "kernels/dequantize.h"

#include <cstring>

#if defined(__aarch64__)
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

namespace actquant {
namespace {

// 16 and 32 bytes, in GCC's and Clang's vector extension.
typedef int8_t Bytes16 __attribute__((vector_size(16)));
typedef int8_t Bytes __attribute__((vector_size(32)));
typedef uint16_t Shorts16 __attribute__((vector_size(16)));
typedef uint16_t Shorts __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef uint64_t Longs __attribute__((vector_size(32)));

template <typename Vector> inline Vector load(const void* from) {
    Vector x;
    std::memcpy(&x, from, sizeof(x));
    return x;
}

inline Bytes16 half_of(Bytes x, int side) {
    return load<Bytes16>(reinterpret_cast<const char*>(&x) + 16 * side);
}

inline float half(ggml_half x) {
#if defined(__aarch64__)
    __fp16 value;
    std::memcpy(&value, &x, sizeof(value));
    return value;
#else
    return _cvtsh_ss(x);
#endif
}

// 16 integers times a scale, less an offset.
inline void put(float* y, Bytes16 integers, float scale, float offset = 0.0f) {
#if defined(__AVX512F__)
    __m512 x = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)integers));
    x = _mm512_mul_ps(x, _mm512_set1_ps(scale));
    _mm512_storeu_ps(y, _mm512_sub_ps(x, _mm512_set1_ps(offset)));
#elif defined(__AVX2__)
    for (int side = 0; side < 2; side++) {
        __m128i bytes = side == 0 ? (__m128i)integers : _mm_srli_si128((__m128i)integers, 8);
        __m256 x = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
        x = _mm256_mul_ps(x, _mm256_set1_ps(scale));
        _mm256_storeu_ps(y + 8 * side, _mm256_sub_ps(x, _mm256_set1_ps(offset)));
    }
#else
    int16x8_t halves[2] = {vmovl_s8(vget_low_s8((int8x16_t)integers)),
                           vmovl_high_s8((int8x16_t)integers)};
    for (int side = 0; side < 2; side++) {
        float32x4_t low = vcvtq_f32_s32(vmovl_s16(vget_low_s16(halves[side])));
        float32x4_t high = vcvtq_f32_s32(vmovl_high_s16(halves[side]));
        vst1q_f32(y + 8 * side, vsubq_f32(vmulq_n_f32(low, scale), vdupq_n_f32(offset)));
        vst1q_f32(y + 8 * side + 4, vsubq_f32(vmulq_n_f32(high, scale), vdupq_n_f32(offset)));
    }
#endif
}

inline void put(float* y, Bytes integers, float low_scale, float high_scale) {
    put(y, half_of(integers, 0), low_scale);
    put(y + 16, half_of(integers, 1), high_scale);
}

// The integers with a sign bit, negated.
inline Bytes negated(Bytes integers, uint32_t signs) {
#ifdef __AVX512F__
    return (Bytes)_mm256_mask_sub_epi8((__m256i)integers, signs, _mm256_setzero_si256(),
                                       (__m256i)integers);
#else
    const Bytes byte = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,
                        2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3};
    const Bytes bit = (Bytes)(Longs{} + 0x8040201008040201);
#if defined(__AVX2__)
    Bytes bytes = (Bytes)_mm256_shuffle_epi8((__m256i)(Words{} + signs), (__m256i)byte);
#else
    Bytes bytes = __builtin_shuffle((Bytes)(Words{} + signs), byte);
#endif
    Bytes negative = (bytes & bit) == bit;
    return (integers ^ negative) - negative;
#endif
}

inline Bytes four(const uint64_t* grid, int a, int b, int c, int d) {
    return (Bytes)Longs{grid[a], grid[b], grid[c], grid[d]};
}

// Signs of 4 groups of 8, 7 bits each; the eighth makes their number even.
inline uint32_t even_signs(uint32_t bits) {
    return ksigns_iq2xs[bits & 127] | ksigns_iq2xs[bits >> 7 & 127] << 8 |
           ksigns_iq2xs[bits >> 14 & 127] << 16 |
           static_cast<uint32_t>(ksigns_iq2xs[bits >> 21 & 127]) << 24;
}

inline uint32_t word(const void* from) {
    return load<uint32_t>(from);
}

void unpack(const block_iq2_xxs& block, float* y) {
    float d = half(block.d);
    for (int part = 0; part < 8; part++) {
        const uint8_t* index = reinterpret_cast<const uint8_t*>(block.qs + 4 * part);
        uint32_t rest = word(block.qs + 4 * part + 2);
        float scale = d * (0.5f + static_cast<float>(rest >> 28)) * 0.25f;
        Bytes grid = four(iq2xxs_grid, index[0], index[1], index[2], index[3]);
        put(y + 32 * part, negated(grid, even_signs(rest)), scale, scale);
    }
}

void unpack(const block_iq2_xs& block, float* y) {
    float d = half(block.d);
    for (int part = 0; part < 8; part++) {
        const uint16_t* q = block.qs + 4 * part;
        uint8_t scales = block.scales[part];
        Bytes grid = four(iq2xs_grid, q[0] & 511, q[1] & 511, q[2] & 511, q[3] & 511);
        uint32_t signs = ksigns_iq2xs[q[0] >> 9] | ksigns_iq2xs[q[1] >> 9] << 8 |
                         ksigns_iq2xs[q[2] >> 9] << 16 |
                         static_cast<uint32_t>(ksigns_iq2xs[q[3] >> 9]) << 24;
        put(y + 32 * part, negated(grid, signs),
            d * (0.5f + static_cast<float>(scales & 15)) * 0.25f,
            d * (0.5f + static_cast<float>(scales >> 4)) * 0.25f);
    }
}

void unpack(const block_iq2_s& block, float* y) {
    float d = half(block.d);
    for (int part = 0; part < 8; part++) {
        const uint8_t* q = block.qs + 4 * part;
        int high = block.qh[part];
        uint8_t scales = block.scales[part];
        Bytes grid = four(iq2s_grid, q[0] | (high << 8 & 0x300), q[1] | (high << 6 & 0x300),
                          q[2] | (high << 4 & 0x300), q[3] | (high << 2 & 0x300));
        put(y + 32 * part, negated(grid, word(block.qs + 32 + 4 * part)),
            d * (0.5f + static_cast<float>(scales & 15)) * 0.25f,
            d * (0.5f + static_cast<float>(scales >> 4)) * 0.25f);
    }
}

inline Bytes eight(const uint32_t* grid, Words index) {
#if defined(__AVX2__)
    return (Bytes)_mm256_i32gather_epi32(reinterpret_cast<const int*>(grid), (__m256i)index, 4);
#else
    return (Bytes)Words{grid[index[0]], grid[index[1]], grid[index[2]], grid[index[3]],
                        grid[index[4]], grid[index[5]], grid[index[6]], grid[index[7]]};
#endif
}

inline Words eight_bytes(const uint8_t* from) {
    typedef uint8_t Bytes8 __attribute__((vector_size(8)));
    return __builtin_convertvector(load<Bytes8>(from), Words);
}

void unpack(const block_iq3_xxs& block, float* y) {
    float d = half(block.d);
    for (int part = 0; part < 8; part++) {
        uint32_t rest = word(block.qs + 64 + 4 * part);
        float scale = d * (0.5f + static_cast<float>(rest >> 28)) * 0.5f;
        Bytes grid = eight(iq3xxs_grid, eight_bytes(block.qs + 8 * part));
        put(y + 32 * part, negated(grid, even_signs(rest)), scale, scale);
    }
}

void unpack(const block_iq3_s& block, float* y) {
    float d = half(block.d);
    const Words bit = {8, 7, 6, 5, 4, 3, 2, 1};
    for (int part = 0; part < 8; part++) {
        int nibble = block.scales[part / 2] >> 4 * (part % 2) & 15;
        float scale = d * static_cast<float>(1 + 2 * nibble);
        Words high = ((Words{} + block.qh[part]) << bit) & 256;
        Words index = eight_bytes(block.qs + 8 * part) | high;
        put(y + 32 * part, negated(eight(iq3s_grid, index), word(block.signs + 4 * part)), scale,
            scale);
    }
}

// scale · (grid ± 1/8), as scale/8 · (8 grid ± 1).
inline void put_shifted(float* y, Bytes grid, Bytes shift, float low_scale, float high_scale) {
    put(y, grid * 8 + shift, low_scale * 0.125f, high_scale * 0.125f);
}

void unpack(const block_iq1_s& block, float* y) {
    float d = half(block.d);
    for (int part = 0; part < 8; part++) {
        const uint8_t* q = block.qs + 4 * part;
        int high = block.qh[part];
        float scale = d * static_cast<float>(2 * (high >> 12 & 7) + 1);
        Bytes grid = four(iq1s_grid, q[0] | (high << 8 & 0x700), q[1] | (high << 5 & 0x700),
                          q[2] | (high << 2 & 0x700), q[3] | (high >> 1 & 0x700));
        int8_t shift = high & 0x8000 ? -1 : 1;
        put_shifted(y + 32 * part, grid, Bytes{} + shift, scale, scale);
    }
}

void unpack(const block_iq1_m& block, float* y) {
    uint16_t sc[4];
    std::memcpy(sc, block.scales, sizeof(sc));
    float d = half(static_cast<ggml_half>(sc[0] >> 12 | (sc[1] >> 8 & 0x00f0) |
                                          (sc[2] >> 4 & 0x0f00) | (sc[3] & 0xf000)));
    for (int part = 0; part < 8; part++) {
        const uint8_t* q = block.qs + 4 * part;
        int first = block.qh[2 * part];
        int second = block.qh[2 * part + 1];
        int scales = sc[part / 2] >> 6 * (part % 2);
        Bytes grid = four(iq1s_grid, q[0] | (first << 8 & 0x700), q[1] | (first << 4 & 0x700),
                          q[2] | (second << 8 & 0x700), q[3] | (second << 4 & 0x700));
        auto shift = [](int negative) { return negative ? ~0ull : 0x0101010101010101ull; };
        Longs shifts = {shift(first & 0x08), shift(first & 0x80), shift(second & 0x08),
                        shift(second & 0x80)};
        put_shifted(y + 32 * part, grid, (Bytes)shifts,
                    d * static_cast<float>(2 * (scales & 7) + 1),
                    d * static_cast<float>(2 * (scales >> 3 & 7) + 1));
    }
}

// Bits `shift` and `shift` + 1 of every byte.
inline Bytes two_bits(Bytes bytes, int shift) {
    return (Bytes)((Shorts)bytes >> shift) & 3;
}

void unpack(const block_q2_K& block, float* y) {
    ggml_half both[2]; // scale, then least: in the type's declaration for C++ a nameless union
    std::memcpy(both, reinterpret_cast<const char*>(&block) + sizeof(block) - 4, 4);
    float d = half(both[0]);
    float least = half(both[1]);
    for (int part = 0; part < 8; part++) {
        Bytes q = two_bits(load<Bytes>(block.qs + 32 * (part / 4)), 2 * (part % 4));
        for (int side = 0; side < 2; side++) {
            int scales = block.scales[2 * part + side];
            put(y + 32 * part + 16 * side, half_of(q, side), d * static_cast<float>(scales & 15),
                least * static_cast<float>(scales >> 4));
        }
    }
}

void unpack(const block_q3_K& block, float* y) {
    float d = half(block.d);
    uint32_t low = word(block.scales);
    uint32_t middle = word(block.scales + 4);
    uint32_t top = word(block.scales + 8);
    uint32_t words[4] = {(low & 0x0f0f0f0f) | (top & 0x03030303) << 4,
                         (middle & 0x0f0f0f0f) | (top >> 2 & 0x03030303) << 4,
                         (low >> 4 & 0x0f0f0f0f) | (top >> 4 & 0x03030303) << 4,
                         (middle >> 4 & 0x0f0f0f0f) | (top >> 6 & 0x03030303) << 4};
    int8_t scales[16];
    std::memcpy(scales, words, sizeof(scales));
    Bytes high = load<Bytes>(block.hmask);
    for (int part = 0; part < 8; part++) {
        Bytes q = two_bits(load<Bytes>(block.qs + 32 * (part / 4)), 2 * (part % 4));
        Bytes bit = Bytes{} + static_cast<int8_t>(1 << part);
        q -= ((high & bit) == 0) & 4;
        put(y + 32 * part, q, d * static_cast<float>(scales[2 * part] - 32),
            d * static_cast<float>(scales[2 * part + 1] - 32));
    }
}

void unpack(const block_q6_K& block, float* y) {
    float d = half(block.d);
    for (int part = 0; part < 8; part++) {
        int quarter = part % 4;
        Bytes low = load<Bytes>(block.ql + 64 * (part / 4) + 32 * (quarter % 2));
        low = (Bytes)((Shorts)low >> 4 * (quarter / 2)) & 15;
        Bytes high = two_bits(load<Bytes>(block.qh + 32 * (part / 4)), 2 * quarter);
        put(y + 32 * part, (low | high * 16) - 32, d * static_cast<float>(block.scales[2 * part]),
            d * static_cast<float>(block.scales[2 * part + 1]));
    }
}

// Of a table of 16.
Bytes16 looked_up(Bytes16 table, Bytes16 places) {
#ifdef __clang__
    Bytes16 result;
    for (int k = 0; k < 16; k++) {
        result[k] = table[places[k]];
    }
    return result;
#else
    return __builtin_shuffle(table, places);
#endif
}

void unpack(const block_iq4_xs& block, float* y) {
    float d = half(block.d);
    Bytes16 values = load<Bytes16>(kvalues_iq4nl);
    for (int part = 0; part < 8; part++) {
        int scale = (block.scales_l[part / 2] >> 4 * (part % 2) & 15) |
                    (block.scales_h >> 2 * part & 3) << 4;
        float step = d * static_cast<float>(scale - 32);
        Bytes16 q = load<Bytes16>(block.qs + 16 * part);
        Bytes16 high = (Bytes16)((Shorts16)q >> 4) & 15;
        put(y + 32 * part, looked_up(values, q & 15), step);
        put(y + 32 * part + 16, looked_up(values, high), step);
    }
}

template <typename Block> void all(const void* blocks, float* y, int64_t count) {
    const Block* block = static_cast<const Block*>(blocks);
    for (int64_t k = 0; k < count / QK_K; k++) {
        unpack(block[k], y + k * QK_K);
    }
}

} // namespace

ToFloat ACTQUANT_TO_FLOAT(ggml_type type) {
    switch (type) {
    case GGML_TYPE_IQ1_S:
        return all<block_iq1_s>;
    case GGML_TYPE_IQ1_M:
        return all<block_iq1_m>;
    case GGML_TYPE_IQ2_XXS:
        return all<block_iq2_xxs>;
    case GGML_TYPE_IQ2_XS:
        return all<block_iq2_xs>;
    case GGML_TYPE_IQ2_S:
        return all<block_iq2_s>;
    case GGML_TYPE_IQ3_XXS:
        return all<block_iq3_xxs>;
    case GGML_TYPE_IQ3_S:
        return all<block_iq3_s>;
    case GGML_TYPE_IQ4_XS:
        return all<block_iq4_xs>;
    case GGML_TYPE_Q2_K:
        return all<block_q2_K>;
    case GGML_TYPE_Q3_K:
        return all<block_q3_K>;
    case GGML_TYPE_Q6_K:
        return all<block_q6_K>;
    default:
        return nullptr;
    }
}

} // namespace actquant
