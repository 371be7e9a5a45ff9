// Blocks to floats for one instruction set, AVX2 or AVX-512. Of every type the integers are
// unpacked 32 at a time and multiplied by the scale of their part, in the order in which ggml
// multiplies. Included by dequantize_*.cpp, which define ACTQUANT_TO_FLOAT, the function's name.
#pragma once

#define GGML_COMMON_DECL_CPP
#include <ggml-common.h>
#define GGML_COMMON_IMPL_CPP
#include <ggml-common.h>

#include "kernels/dequantize.h"

#include <cstring>

#include <immintrin.h>

namespace actquant {
namespace {

inline float half(ggml_half x) {
    return _cvtsh_ss(x);
}

// 16 integers times a scale, less an offset.
inline void put(float* y, __m128i integers, float scale, float offset = 0.0f) {
#ifdef __AVX512F__
    __m512 x = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(integers));
    x = _mm512_mul_ps(x, _mm512_set1_ps(scale));
    _mm512_storeu_ps(y, _mm512_sub_ps(x, _mm512_set1_ps(offset)));
#else
    for (int half = 0; half < 2; half++) {
        __m256 x = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(integers));
        x = _mm256_mul_ps(x, _mm256_set1_ps(scale));
        _mm256_storeu_ps(y + 8 * half, _mm256_sub_ps(x, _mm256_set1_ps(offset)));
        integers = _mm_srli_si128(integers, 8);
    }
#endif
}

inline void put(float* y, __m256i integers, float low_scale, float high_scale) {
    put(y, _mm256_castsi256_si128(integers), low_scale);
    put(y + 16, _mm256_extracti128_si256(integers, 1), high_scale);
}

// The integers with a sign bit, negated.
inline __m256i negated(__m256i integers, uint32_t signs) {
#ifdef __AVX512F__
    return _mm256_mask_sub_epi8(integers, signs, _mm256_setzero_si256(), integers);
#else
    const __m256i byte = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                          2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(signs)), byte);
    __m256i negative = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
    return _mm256_sub_epi8(_mm256_xor_si256(integers, negative), negative);
#endif
}

inline __m256i four(const uint64_t* grid, int a, int b, int c, int d) {
    return _mm256_set_epi64x(static_cast<int64_t>(grid[d]), static_cast<int64_t>(grid[c]),
                             static_cast<int64_t>(grid[b]), static_cast<int64_t>(grid[a]));
}

// Signs of 4 groups of 8, 7 bits each; the eighth makes their number even.
inline uint32_t even_signs(uint32_t bits) {
    return ksigns_iq2xs[bits & 127] | ksigns_iq2xs[bits >> 7 & 127] << 8 |
           ksigns_iq2xs[bits >> 14 & 127] << 16 |
           static_cast<uint32_t>(ksigns_iq2xs[bits >> 21 & 127]) << 24;
}

inline uint32_t word(const void* from) {
    uint32_t x;
    std::memcpy(&x, from, 4);
    return x;
}

void unpack(const block_iq2_xxs& block, float* y) {
    float d = half(block.d);
    for (int part = 0; part < 8; part++) {
        const uint8_t* index = reinterpret_cast<const uint8_t*>(block.qs + 4 * part);
        uint32_t rest = word(block.qs + 4 * part + 2);
        float scale = d * (0.5f + static_cast<float>(rest >> 28)) * 0.25f;
        __m256i grid = four(iq2xxs_grid, index[0], index[1], index[2], index[3]);
        put(y + 32 * part, negated(grid, even_signs(rest)), scale, scale);
    }
}

void unpack(const block_iq2_xs& block, float* y) {
    float d = half(block.d);
    for (int part = 0; part < 8; part++) {
        const uint16_t* q = block.qs + 4 * part;
        uint8_t scales = block.scales[part];
        __m256i grid = four(iq2xs_grid, q[0] & 511, q[1] & 511, q[2] & 511, q[3] & 511);
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
        __m256i grid = four(iq2s_grid, q[0] | (high << 8 & 0x300), q[1] | (high << 6 & 0x300),
                            q[2] | (high << 4 & 0x300), q[3] | (high << 2 & 0x300));
        put(y + 32 * part, negated(grid, word(block.qs + 32 + 4 * part)),
            d * (0.5f + static_cast<float>(scales & 15)) * 0.25f,
            d * (0.5f + static_cast<float>(scales >> 4)) * 0.25f);
    }
}

inline __m256i eight(const uint32_t* grid, __m256i index) {
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(grid), index, 4);
}

inline __m256i eight_bytes(const uint8_t* from) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}

void unpack(const block_iq3_xxs& block, float* y) {
    float d = half(block.d);
    for (int part = 0; part < 8; part++) {
        uint32_t rest = word(block.qs + 64 + 4 * part);
        float scale = d * (0.5f + static_cast<float>(rest >> 28)) * 0.5f;
        __m256i grid = eight(iq3xxs_grid, eight_bytes(block.qs + 8 * part));
        put(y + 32 * part, negated(grid, even_signs(rest)), scale, scale);
    }
}

void unpack(const block_iq3_s& block, float* y) {
    float d = half(block.d);
    const __m256i bit = _mm256_setr_epi32(8, 7, 6, 5, 4, 3, 2, 1);
    for (int part = 0; part < 8; part++) {
        int nibble = block.scales[part / 2] >> 4 * (part % 2) & 15;
        float scale = d * static_cast<float>(1 + 2 * nibble);
        __m256i high = _mm256_and_si256(_mm256_sllv_epi32(_mm256_set1_epi32(block.qh[part]), bit),
                                        _mm256_set1_epi32(256));
        __m256i index = _mm256_or_si256(eight_bytes(block.qs + 8 * part), high);
        put(y + 32 * part, negated(eight(iq3s_grid, index), word(block.signs + 4 * part)), scale,
            scale);
    }
}

// scale · (grid ± 1/8), as scale/8 · (8 grid ± 1).
inline void put_shifted(float* y, __m256i grid, __m256i shift, float low_scale, float high_scale) {
    __m256i times_8 = _mm256_add_epi8(grid, grid);
    times_8 = _mm256_add_epi8(times_8, times_8);
    times_8 = _mm256_add_epi8(times_8, times_8);
    put(y, _mm256_add_epi8(times_8, shift), low_scale * 0.125f, high_scale * 0.125f);
}

void unpack(const block_iq1_s& block, float* y) {
    float d = half(block.d);
    for (int part = 0; part < 8; part++) {
        const uint8_t* q = block.qs + 4 * part;
        int high = block.qh[part];
        float scale = d * static_cast<float>(2 * (high >> 12 & 7) + 1);
        __m256i grid = four(iq1s_grid, q[0] | (high << 8 & 0x700), q[1] | (high << 5 & 0x700),
                            q[2] | (high << 2 & 0x700), q[3] | (high >> 1 & 0x700));
        put_shifted(y + 32 * part, grid,
                    _mm256_set1_epi8(static_cast<char>(high & 0x8000 ? -1 : 1)), scale, scale);
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
        __m256i grid = four(iq1s_grid, q[0] | (first << 8 & 0x700), q[1] | (first << 4 & 0x700),
                            q[2] | (second << 8 & 0x700), q[3] | (second << 4 & 0x700));
        auto shift = [](int negative) { return negative ? -1LL : 0x0101010101010101LL; };
        __m256i shifts = _mm256_set_epi64x(shift(second & 0x80), shift(second & 0x08),
                                           shift(first & 0x80), shift(first & 0x08));
        put_shifted(y + 32 * part, grid, shifts, d * static_cast<float>(2 * (scales & 7) + 1),
                    d * static_cast<float>(2 * (scales >> 3 & 7) + 1));
    }
}

inline __m256i load(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

// Bits `shift` and `shift` + 1 of every byte.
inline __m256i two_bits(__m256i bytes, int shift) {
    return _mm256_and_si256(_mm256_srli_epi16(bytes, shift), _mm256_set1_epi8(3));
}

void unpack(const block_q2_K& block, float* y) {
    ggml_half both[2]; // scale, then least: in the type's declaration for C++ a nameless union
    std::memcpy(both, reinterpret_cast<const char*>(&block) + sizeof(block) - 4, 4);
    float d = half(both[0]);
    float least = half(both[1]);
    for (int part = 0; part < 8; part++) {
        __m256i q = two_bits(load(block.qs + 32 * (part / 4)), 2 * (part % 4));
        for (int side = 0; side < 2; side++) {
            int scales = block.scales[2 * part + side];
            __m128i bytes = side == 0 ? _mm256_castsi256_si128(q) : _mm256_extracti128_si256(q, 1);
            put(y + 32 * part + 16 * side, bytes, d * static_cast<float>(scales & 15),
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
    __m256i high = load(block.hmask);
    for (int part = 0; part < 8; part++) {
        __m256i q = two_bits(load(block.qs + 32 * (part / 4)), 2 * (part % 4));
        __m256i bit = _mm256_set1_epi8(static_cast<char>(1 << part));
        __m256i without = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), _mm256_setzero_si256());
        q = _mm256_sub_epi8(q, _mm256_and_si256(without, _mm256_set1_epi8(4)));
        put(y + 32 * part, q, d * static_cast<float>(scales[2 * part] - 32),
            d * static_cast<float>(scales[2 * part + 1] - 32));
    }
}

void unpack(const block_q6_K& block, float* y) {
    float d = half(block.d);
    const __m256i nibble = _mm256_set1_epi8(15);
    for (int part = 0; part < 8; part++) {
        int quarter = part % 4;
        __m256i low = load(block.ql + 64 * (part / 4) + 32 * (quarter % 2));
        low = _mm256_and_si256(quarter < 2 ? low : _mm256_srli_epi16(low, 4), nibble);
        __m256i high = two_bits(load(block.qh + 32 * (part / 4)), 2 * quarter);
        __m256i q = _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
        put(y + 32 * part, _mm256_sub_epi8(q, _mm256_set1_epi8(32)),
            d * static_cast<float>(block.scales[2 * part]),
            d * static_cast<float>(block.scales[2 * part + 1]));
    }
}

void unpack(const block_iq4_xs& block, float* y) {
    float d = half(block.d);
    __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kvalues_iq4nl));
    for (int part = 0; part < 8; part++) {
        int scale = (block.scales_l[part / 2] >> 4 * (part % 2) & 15) |
                    (block.scales_h >> 2 * part & 3) << 4;
        float step = d * static_cast<float>(scale - 32);
        __m128i q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block.qs + 16 * part));
        __m128i mask = _mm_set1_epi8(15);
        put(y + 32 * part, _mm_shuffle_epi8(values, _mm_and_si128(q, mask)), step);
        put(y + 32 * part + 16, _mm_shuffle_epi8(values, _mm_and_si128(_mm_srli_epi16(q, 4), mask)),
            step);
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
