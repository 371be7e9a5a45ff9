// Rows of words times panels, for one instruction set. Included by files that define
//   ACTQUANT_VECTOR_FLOATS  floats of a vector
//   ACTQUANT_ROWS           rows that are worked on together: 2 · ROWS accumulators
//   ACTQUANT_BFLOAT16       1 if products take pairs of bfloat16 (AVX512_BF16), else 0
//
// A panel holds, for each step of a product, one word for each of its columns: a float, or two
// bfloat16 that follow each other along the product's sum.
#pragma once

#include "kernels/vector.h"

#if ACTQUANT_BFLOAT16
#include <immintrin.h>
#endif

namespace actquant {
namespace {

constexpr int MAX_ROWS = ACTQUANT_ROWS;

inline int64_t rounded_up(int64_t x, int64_t multiple) {
    return (x + multiple - 1) / multiple * multiple;
}

inline uint16_t bfloat16_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// A row of floats as words; the last is filled up with zero.
void to_words(const float* row, int64_t width, float scale, uint32_t* words) {
#if ACTQUANT_BFLOAT16
    uint16_t* halves = reinterpret_cast<uint16_t*>(words);
    int64_t k = 0;
    for (; k + W <= width; k += W) {
        store(halves + k, bfloat16(load(row + k) * scale));
    }
    for (; k < width; k++) {
        halves[k] = bfloat16_of(row[k] * scale);
    }
    if (width % 2 != 0) {
        halves[width] = 0;
    }
#else
    float* floats = reinterpret_cast<float*>(words);
    for (int64_t k = 0; k < width; k++) {
        floats[k] = row[k] * scale;
    }
#endif
}

// The product of ROWS rows of words and a panel of VECTORS · W columns, onto `sums` unless `first`.
template <int ROWS, int VECTORS>
void multiply(const uint32_t* panel, const uint32_t* rows, int64_t row_words, int64_t steps,
              float* sums, int64_t sum_stride, bool first) {
    Vec total[ROWS][VECTORS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
            total[r][v] = first ? Vec{} : load(sums + r * sum_stride + v * W);
        }
    }
    for (int64_t step = 0; step < steps; step++) {
        Vec column[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
            column[v] = load(panel + (step * VECTORS + v) * W);
        }
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            const uint32_t* word = rows + r * row_words + step;
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) {
#if ACTQUANT_BFLOAT16
                // By intrinsics GCC 12 keeps the totals in memory.
                WordVec pair = WordVec{} + *word;
                asm("vdpbf16ps %2, %1, %0" : "+v"(total[r][v]) : "v"(column[v]), "v"(pair));
#else
                float factor;
                std::memcpy(&factor, word, 4);
                total[r][v] += column[v] * factor;
#endif
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
            store(sums + r * sum_stride + v * W, total[r][v]);
        }
    }
}

template <int VECTORS, int ROWS = MAX_ROWS>
void multiply_rows(int rows, const uint32_t* panel, const uint32_t* words, int64_t row_words,
                   int64_t steps, float* sums, int64_t sum_stride, bool first) {
    if constexpr (ROWS > 1) {
        if (rows < ROWS) {
            return multiply_rows<VECTORS, ROWS - 1>(rows, panel, words, row_words, steps, sums,
                                                    sum_stride, first);
        }
    }
    multiply<ROWS, VECTORS>(panel, words, row_words, steps, sums, sum_stride, first);
}

// See AttentionKernel::exercise.
double exercise(int repetitions) {
    constexpr int64_t steps = 64;
    alignas(64) uint32_t panel[steps * 2 * W] = {};
    alignas(64) uint32_t words[MAX_ROWS * steps] = {};
    alignas(64) float sums[MAX_ROWS * 2 * W] = {};
    for (int k = 0; k < repetitions; k++) {
        forget(panel);
        forget(words);
        forget(sums);
        multiply_rows<2>(MAX_ROWS, panel, words, steps, steps, sums, 2 * W, false);
    }
    double terms = static_cast<double>(steps * MAX_ROWS * 2 * W) * (ACTQUANT_BFLOAT16 ? 2 : 1);
    return 2 * terms * repetitions + static_cast<double>(sums[0]);
}

} // namespace
} // namespace actquant
