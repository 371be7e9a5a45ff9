// Products of 8-bit integers by AVX512_VNNI. vpdpbusd multiplies unsigned by signed bytes: weights
// are stored with 128 added, which is taken away again as 128 times the sum of the activations.
#define ACTQUANT_VECTOR_FLOATS 16
#include "kernels/panel_product.h"
#include "kernels/vector.h"

#include <immintrin.h>

namespace actquant {
namespace {

constexpr int MAX_ROWS = 12;
constexpr int64_t BLOCK = 256;
constexpr int64_t STEPS = BLOCK / 4;

inline int64_t blocks_of(int64_t columns) {
    return (columns + BLOCK - 1) / BLOCK;
}

// The largest magnitude of 256 floats, over 127; where all are zero, 0 with `inverse` 0.
float scale_of(const float* x, float& inverse) {
    __m512 top = _mm512_setzero_ps();
    for (int64_t k = 0; k < BLOCK; k += W) {
        top = _mm512_max_ps(top, _mm512_abs_ps(_mm512_loadu_ps(x + k)));
    }
    float largest = _mm512_reduce_max_ps(top);
    inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    return largest / 127.0f;
}

inline __m512i rounded(const float* x, float inverse) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(inverse)));
}

// A panel: for each block its words [STEPS][PANEL_ROWS], then for each block its scales.
size_t panel_bytes(int64_t columns) {
    return static_cast<size_t>(blocks_of(columns) * (STEPS * PANEL_ROWS + PANEL_ROWS)) * 4;
}

inline float* scales_of(void* panel, int64_t columns) {
    return static_cast<float*>(panel) + blocks_of(columns) * STEPS * PANEL_ROWS;
}

void unpack(const PackedRows& weight, int64_t first_row, void* panel) {
    alignas(64) float floats[BLOCK];
    alignas(64) uint32_t words[STEPS];
    float* scales = scales_of(panel, weight.columns);
    for (int64_t block = 0; block < blocks_of(weight.columns); block++) {
        int64_t first = block * BLOCK;
        int64_t count = weight.columns - first < BLOCK ? weight.columns - first : BLOCK;
        uint32_t* target = static_cast<uint32_t*>(panel) + block * STEPS * PANEL_ROWS;
        for (int64_t r = 0; r < PANEL_ROWS; r++) {
            bool inside = first_row + r < weight.rows;
            float inverse = 0.0f;
            float scale = 0.0f;
            if (inside) {
                const char* row = static_cast<const char*>(weight.data) +
                                  static_cast<size_t>(first_row + r) * weight.row_bytes;
                weight.to_float(row + static_cast<size_t>(first / weight.block) *
                                          weight.block_bytes,
                                floats, count);
                std::memset(floats + count, 0, static_cast<size_t>(BLOCK - count) * 4);
                scale = scale_of(floats, inverse);
            }
            for (int64_t k = 0; k < BLOCK; k += W) {
                __m512i level = inside ? rounded(floats + k, inverse) : _mm512_setzero_si512();
                __m128i bytes = _mm_xor_si128(_mm512_cvtepi32_epi8(level),
                                              _mm_set1_epi8(static_cast<char>(0x80)));
                _mm_store_si128(reinterpret_cast<__m128i*>(words + k / 4), bytes);
            }
            for (int64_t step = 0; step < STEPS; step++) {
                target[step * PANEL_ROWS + r] = words[step];
            }
            scales[block * PANEL_ROWS + r] = scale;
        }
    }
}

// Bytes [blocks][rows][256], then scales [blocks][rows], then -128 · sums of bytes.
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
        found.scales[at] = scale_of(source, inverse);
        __m512i sum = _mm512_setzero_si512();
        for (int64_t i = 0; i < BLOCK; i += W) {
            __m512i level = rounded(source + i, inverse);
            sum = _mm512_add_epi32(sum, level);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(found.bytes + at * BLOCK + i),
                             _mm512_cvtepi32_epi8(level));
        }
        found.corrections[at] = -128 * _mm512_reduce_add_epi32(sum);
    }
}

struct Tile {
    const uint32_t* words; // of the panel's block
    const float* weight_scales;
    const int8_t* bytes; // of the first row's block
    const float* scales;
    const int32_t* corrections;
    const float* start; // what is added to the first block's results
    float* y;
    int64_t y_columns;
    __mmask16 low, high; // which columns y has
    bool first;
};

template <int ROWS> void multiply_tile(const Tile& tile) {
    __m512i total[ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) {
        total[r][0] = total[r][1] = _mm512_set1_epi32(tile.corrections[r]);
    }
    for (int64_t step = 0; step < STEPS; step++) {
        __m512i low = _mm512_loadu_si512(tile.words + step * PANEL_ROWS);
        __m512i high = _mm512_loadu_si512(tile.words + step * PANEL_ROWS + W);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            int32_t word;
            std::memcpy(&word, tile.bytes + r * BLOCK + step * 4, 4);
            __m512i all = _mm512_set1_epi32(word);
            // By intrinsics GCC 12 keeps the totals in memory.
            asm("vpdpbusd %2, %1, %0" : "+v"(total[r][0]) : "v"(low), "v"(all));
            asm("vpdpbusd %2, %1, %0" : "+v"(total[r][1]) : "v"(high), "v"(all));
        }
    }
    __m512 low_scales = _mm512_loadu_ps(tile.weight_scales);
    __m512 high_scales = _mm512_loadu_ps(tile.weight_scales + W);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) {
        float* y = tile.y + r * tile.y_columns;
        __m512 scale = _mm512_set1_ps(tile.scales[r]);
        const float* before = tile.first ? tile.start : y;
        __m512 low = _mm512_maskz_loadu_ps(tile.low, before);
        __m512 high = _mm512_maskz_loadu_ps(tile.high, before + W);
        low = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total[r][0]),
                              _mm512_mul_ps(low_scales, scale), low);
        high = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total[r][1]),
                               _mm512_mul_ps(high_scales, scale), high);
        _mm512_mask_storeu_ps(y, tile.low, low);
        _mm512_mask_storeu_ps(y + W, tile.high, high);
    }
}

template <int ROWS = MAX_ROWS> void multiply_rows(int64_t rows, const Tile& tile) {
    if constexpr (ROWS > 1) {
        if (rows < ROWS) {
            return multiply_rows<ROWS - 1>(rows, tile);
        }
    }
    multiply_tile<ROWS>(tile);
}

void multiply(const void* panel, const void* memory, int64_t columns, int64_t rows,
              const float* bias, float* y, int64_t y_columns, int64_t first_row) {
    Activations found = activations_of(const_cast<void*>(memory), columns, rows);
    int64_t blocks = blocks_of(columns);
    int64_t wanted = y_columns - first_row < PANEL_ROWS ? y_columns - first_row : PANEL_ROWS;
    uint32_t mask = wanted == 32 ? 0xffffffffu : (1u << wanted) - 1;
    alignas(64) float start[PANEL_ROWS] = {};
    if (bias != nullptr) {
        std::memcpy(start, bias + first_row, static_cast<size_t>(wanted) * 4);
    }
    const uint32_t* words = static_cast<const uint32_t*>(panel);
    const float* scales = scales_of(const_cast<void*>(panel), columns);
    int64_t tiles = (rows + MAX_ROWS - 1) / MAX_ROWS;
    for (int64_t block = 0; block < blocks; block++) {
        for (int64_t k = 0; k < tiles; k++) {
            int64_t row = rows * k / tiles;
            int64_t at = block * rows + row;
            multiply_rows(rows * (k + 1) / tiles - row,
                          {words + block * STEPS * PANEL_ROWS, scales + block * PANEL_ROWS,
                           found.bytes + at * BLOCK, found.scales + at, found.corrections + at,
                           start, y + row * y_columns + first_row, y_columns,
                           static_cast<__mmask16>(mask), static_cast<__mmask16>(mask >> 16),
                           block == 0});
        }
    }
}

} // namespace

extern const PanelKernel int8_avx512_vnni;
const PanelKernel int8_avx512_vnni = {"int8", Isa::avx512_vnni, panel_bytes, unpack, activation_bytes,
                                      round_rows, multiply};

} // namespace actquant
