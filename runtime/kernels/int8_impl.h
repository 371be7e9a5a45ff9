// Products of 8-bit integers for one instruction set. Included by int8_*.cpp, which define
//   ACTQUANT_VECTOR_FLOATS  floats of a vector
//   ACTQUANT_ROWS           rows that are worked on together: 2 · ROWS accumulators
//   ACTQUANT_WEIGHT_LEVEL   the largest magnitude of a weight
//   ACTQUANT_WEIGHT_OFFSET  added to weights, which makes them unsigned where the instructions
//                           multiply unsigned by signed bytes; taken away again as that many times
//                           the sum of the activations
//   ACTQUANT_GROUP          bytes of a column that lie together in a panel
//   ACTQUANT_TILE           the header with the inner loop: a struct Tile is given there
//   ACTQUANT_KERNEL, ACTQUANT_KERNEL_ISA
#pragma once

#include "kernels/row_block.h"
#include "kernels/vector.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

namespace actquant {
namespace {

constexpr int MAX_ROWS = ACTQUANT_ROWS;
constexpr int64_t BLOCK = 256;
constexpr int64_t WORDS = BLOCK / 4;
constexpr int64_t GROUP_WORDS = ACTQUANT_GROUP / 4;
constexpr int WEIGHT_LEVEL = ACTQUANT_WEIGHT_LEVEL;
constexpr int WEIGHT_OFFSET = ACTQUANT_WEIGHT_OFFSET;
constexpr int ACTIVATION_LEVEL = 127;

[[maybe_unused]] typedef int8_t ByteVec __attribute__((vector_size(W)));

inline int64_t blocks_of(int64_t columns) {
    return (columns + BLOCK - 1) / BLOCK;
}

// The largest magnitude of 256 floats, over `level`; where all are zero, 0 with `inverse` 0; NaN
// where one is NaN or infinite, which an integer would hide.
inline float scale_of(const float* x, int level, float& inverse) {
    Vec top = Vec{};
    Vec zero = Vec{};
    for (int64_t k = 0; k < BLOCK; k += W) {
        Vec value = load(x + k);
        top = larger(top, larger(value, -value));
        zero += value * 0.0f;
    }
    float largest = largest_element(top);
    float levels = static_cast<float>(level);
    inverse = largest > 0.0f ? levels / largest : 0.0f;
    return largest / levels + sum_of_elements(zero);
}

// To the nearest integer: adding 1.5·2^23 leaves it in the lowest bits.
inline IntVec rounded(Vec x) {
    return (IntVec)(x + 12582912.0f) - 0x4b400000;
}

// 256 floats times `inverse` as bytes, with `offset` added; returns their sum without it.
inline int32_t to_bytes(const float* x, float inverse, int offset, void* bytes) {
    IntVec sums = IntVec{};
    char* target = static_cast<char*>(bytes);
#if ACTQUANT_VECTOR_FLOATS == 8
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t k = 0; k < BLOCK; k += 32) {
        IntVec levels[4];
        for (int64_t i = 0; i < 4; i++) {
            levels[i] = rounded(load(x + k + 8 * i) * inverse);
            sums += levels[i];
            levels[i] += offset;
        }
        // Below 128 signed, or from 0 to 255: all fit into signed 16 bits.
        __m256i low = _mm256_packs_epi32((__m256i)levels[0], (__m256i)levels[1]);
        __m256i high = _mm256_packs_epi32((__m256i)levels[2], (__m256i)levels[3]);
        const __m256i byte = _mm256_set1_epi16(255);
        __m256i all =
            _mm256_packus_epi16(_mm256_and_si256(low, byte), _mm256_and_si256(high, byte));
        store(target + k, _mm256_permutevar8x32_epi32(all, order));
    }
#elif defined(__aarch64__)
    for (int64_t k = 0; k < BLOCK; k += 16) {
        int32x4_t levels[4];
        for (int64_t i = 0; i < 4; i++) {
            IntVec level = rounded(load(x + k + 4 * i) * inverse);
            sums += level;
            levels[i] = (int32x4_t)(level + offset);
        }
        int16x8_t low = vcombine_s16(vmovn_s32(levels[0]), vmovn_s32(levels[1]));
        int16x8_t high = vcombine_s16(vmovn_s32(levels[2]), vmovn_s32(levels[3]));
        store(target + k, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
    }
#else
    for (int64_t k = 0; k < BLOCK; k += W) {
        IntVec level = rounded(load(x + k) * inverse);
        sums += level;
        store(target + k, __builtin_convertvector(level + offset, ByteVec));
    }
#endif
    uint32_t sum = 0; // of non-finite values anything: it may wrap
    for (int64_t k = 0; k < W; k++) {
        sum += static_cast<uint32_t>(sums[k]);
    }
    return static_cast<int32_t>(sum);
}

// A panel: for each block its words [WORDS / GROUP_WORDS][PANEL_ROWS][GROUP_WORDS], then for each
// block its scales.
size_t panel_bytes(int64_t columns) {
    return static_cast<size_t>(blocks_of(columns) * (WORDS * PANEL_ROWS + PANEL_ROWS)) * 4;
}

inline float* scales_of(void* panel, int64_t columns) {
    return static_cast<float*>(panel) + blocks_of(columns) * WORDS * PANEL_ROWS;
}

void unpack(const PackedRows& weight, int64_t first_row, void* panel) {
    alignas(64) float floats[BLOCK];
    alignas(64) uint32_t words[WORDS];
    float* scales = scales_of(panel, weight.columns);
    for (int64_t block = 0; block < blocks_of(weight.columns); block++) {
        uint32_t* target = static_cast<uint32_t*>(panel) + block * WORDS * PANEL_ROWS;
        for (int64_t r = 0; r < PANEL_ROWS; r++) {
            read_block(weight, first_row + r, block * BLOCK, BLOCK, floats);
            float inverse;
            scales[block * PANEL_ROWS + r] = scale_of(floats, WEIGHT_LEVEL, inverse);
            to_bytes(floats, inverse, WEIGHT_OFFSET, words);
            for (int64_t k = 0; k < WORDS; k++) {
                int64_t group = k / GROUP_WORDS * PANEL_ROWS + r;
                target[group * GROUP_WORDS + k % GROUP_WORDS] = words[k];
            }
        }
    }
}

// Bytes [blocks][rows][256], then scales [blocks][rows], then what the sums of bytes take away.
struct Activations {
    int8_t* bytes;
    float* scales;
    int32_t* corrections;
};

size_t activation_bytes(int64_t columns, int64_t rows) {
    return static_cast<size_t>(rows * blocks_of(columns) * (BLOCK + 8));
}

inline Activations activations_of(void* memory, int64_t columns, int64_t rows) {
    int64_t count = rows * blocks_of(columns);
    int8_t* bytes = static_cast<int8_t*>(memory);
    float* scales = reinterpret_cast<float*>(bytes + count * BLOCK);
    return {bytes, scales, reinterpret_cast<int32_t*>(scales + count)};
}

void round_rows(const float* x, int64_t width, int64_t columns, int64_t rows, int64_t first,
                int64_t end, void* memory) {
    Activations found = activations_of(memory, columns, rows);
    int64_t blocks = blocks_of(columns);
    alignas(64) float part[BLOCK];
    for (int64_t k = first * blocks; k < end * blocks; k++) {
        int64_t begin = k % blocks * BLOCK;
        int64_t at = k % blocks * rows + k / blocks;
        const float* source = x + k / blocks * width + begin;
        if (width - begin < BLOCK) {
            int64_t count = width > begin ? width - begin : 0;
            std::memcpy(part, source, static_cast<size_t>(count) * 4);
            std::memset(part + count, 0, static_cast<size_t>(BLOCK - count) * 4);
            source = part;
        }
        float inverse;
        found.scales[at] = scale_of(source, ACTIVATION_LEVEL, inverse);
        int32_t sum = to_bytes(source, inverse, 0, found.bytes + at * BLOCK);
        found.corrections[at] =
            static_cast<int32_t>(0u - WEIGHT_OFFSET * static_cast<uint32_t>(sum));
    }
}

// A block of the rows that are worked on together, times a block of a panel.
struct Tile {
    const uint32_t* words; // of the panel's block, from the tile's first column on
    const float* weight_scales;
    const int8_t* bytes; // of the first row's block
    const float* scales;
    const int32_t* corrections;
    float* sums;
    int64_t sum_stride;
};

} // namespace
} // namespace actquant

// TILE_COLUMNS, and multiply_tile<ROWS>(tile), which adds the products to the sums.
#include ACTQUANT_TILE

namespace actquant {
namespace {

template <int ROWS = MAX_ROWS> void multiply_rows(int64_t rows, const Tile& tile) {
    if constexpr (ROWS > 1) {
        if (rows < ROWS) {
            return multiply_rows<ROWS - 1>(rows, tile);
        }
    }
    multiply_tile<ROWS>(tile);
}

// The rows of a tile take all blocks of the panel before they are written: rows of y may lie so
// that few of them fit into a near cache.
void multiply(const void* panel, const void* memory, int64_t columns, int64_t rows,
              const float* bias, float* y, int64_t y_columns, int64_t first_row) {
    Activations found = activations_of(const_cast<void*>(memory), columns, rows);
    // The last panel may have more columns than y.
    int64_t wanted = y_columns - first_row < PANEL_ROWS ? y_columns - first_row : PANEL_ROWS;
    const uint32_t* words = static_cast<const uint32_t*>(panel);
    const float* scales = scales_of(const_cast<void*>(panel), columns);
    alignas(64) float start[PANEL_ROWS] = {};
    if (bias != nullptr) {
        std::memcpy(start, bias + first_row, static_cast<size_t>(wanted) * sizeof(float));
    }
    alignas(64) float sums[MAX_ROWS * PANEL_ROWS];
    int64_t tiles = (rows + MAX_ROWS - 1) / MAX_ROWS;
    for (int64_t k = 0; k < tiles; k++) {
        int64_t row = rows * k / tiles;
        int64_t count = rows * (k + 1) / tiles - row;
        for (int64_t r = 0; r < count; r++) {
            std::memcpy(sums + r * PANEL_ROWS, start, sizeof(start));
        }
        for (int64_t block = 0; block < blocks_of(columns); block++) {
            int64_t at = block * rows + row;
            for (int64_t c = 0; c < PANEL_ROWS; c += TILE_COLUMNS) {
                multiply_rows(count,
                              {words + block * WORDS * PANEL_ROWS + c * GROUP_WORDS,
                               scales + block * PANEL_ROWS + c, found.bytes + at * BLOCK,
                               found.scales + at, found.corrections + at, sums + c, PANEL_ROWS});
            }
        }
        for (int64_t r = 0; r < count; r++) {
            std::memcpy(y + (row + r) * y_columns + first_row, sums + r * PANEL_ROWS,
                        static_cast<size_t>(wanted) * sizeof(float));
        }
    }
}

// See AttentionKernel::exercise.
double exercise(int repetitions) {
    alignas(64) uint32_t words[WORDS * PANEL_ROWS] = {};
    alignas(64) int8_t bytes[MAX_ROWS * BLOCK] = {};
    alignas(64) float sums[MAX_ROWS * TILE_COLUMNS] = {};
    const float weight_scales[TILE_COLUMNS] = {};
    const float scales[MAX_ROWS] = {};
    const int32_t corrections[MAX_ROWS] = {};
    for (int k = 0; k < repetitions; k++) {
        forget(words);
        forget(bytes);
        forget(sums);
        multiply_rows(MAX_ROWS,
                      {words, weight_scales, bytes, scales, corrections, sums, TILE_COLUMNS});
    }
    double terms = static_cast<double>(BLOCK * MAX_ROWS * TILE_COLUMNS);
    return 2 * terms * repetitions + static_cast<double>(sums[0]);
}

} // namespace

extern const PanelKernel ACTQUANT_KERNEL;
const PanelKernel ACTQUANT_KERNEL = {"int8",           ACTQUANT_KERNEL_ISA, panel_bytes, unpack,
                                     activation_bytes, round_rows,          multiply,    exercise};

} // namespace actquant
