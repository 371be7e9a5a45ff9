// Products of bfloat16 by AVX512_BF16.
#define ACTQUANT_VECTOR_FLOATS 16
#define ACTQUANT_ROWS 12
#define ACTQUANT_BFLOAT16 1
#include "kernels/panel_multiply.h"
#include "kernels/row_block.h"

namespace actquant {
namespace {

// As many of a row's weights are unpacked, and as many steps multiplied, at once.
constexpr int64_t BLOCK = 256;
constexpr int64_t STEPS = BLOCK / 2;

inline int64_t padded(int64_t columns) {
    return rounded_up(columns, BLOCK);
}

// A panel: words [padded / 2][PANEL_ROWS].
size_t panel_bytes(int64_t columns) {
    return static_cast<size_t>(padded(columns) * PANEL_ROWS) * 2;
}

void unpack(const PackedRows& weight, int64_t first_row, void* panel) {
    alignas(64) float floats[BLOCK];
    alignas(64) uint32_t words[STEPS];
    for (int64_t first = 0; first < weight.columns; first += BLOCK) {
        uint32_t* target = static_cast<uint32_t*>(panel) + first / 2 * PANEL_ROWS;
        for (int64_t r = 0; r < PANEL_ROWS; r++) {
            read_block(weight, first_row + r, first, BLOCK, floats);
            to_words(floats, BLOCK, 1.0f, words);
            for (int64_t step = 0; step < STEPS; step++) {
                target[step * PANEL_ROWS + r] = words[step];
            }
        }
    }
}

size_t activation_bytes(int64_t columns, int64_t rows) {
    return static_cast<size_t>(rows * padded(columns)) * 2;
}

void round_rows(const float* x, int64_t width, int64_t columns, int64_t, int64_t first, int64_t end,
                void* memory) {
    int64_t row_words = padded(columns) / 2;
    for (int64_t row = first; row < end; row++) {
        uint32_t* words = static_cast<uint32_t*>(memory) + row * row_words;
        to_words(x + row * width, width, 1.0f, words);
        int64_t written = (width + 1) / 2;
        std::memset(words + written, 0, static_cast<size_t>(row_words - written) * 4);
    }
}

void multiply(const void* panel, const void* activations, int64_t columns, int64_t rows,
              const float* bias, float* y, int64_t y_columns, int64_t first_row) {
    int64_t row_words = padded(columns) / 2;
    // The last panel may have more columns than y.
    int64_t wanted = y_columns - first_row < PANEL_ROWS ? y_columns - first_row : PANEL_ROWS;
    alignas(64) float start[PANEL_ROWS] = {};
    if (bias != nullptr) {
        std::memcpy(start, bias + first_row, static_cast<size_t>(wanted) * sizeof(float));
    }
    alignas(64) float sums[MAX_ROWS * PANEL_ROWS];
    int64_t tiles = (rows + MAX_ROWS - 1) / MAX_ROWS;
    for (int64_t k = 0; k < tiles; k++) {
        int64_t first = rows * k / tiles;
        int count = static_cast<int>(rows * (k + 1) / tiles - first);
        for (int r = 0; r < count; r++) {
            std::memcpy(sums + r * PANEL_ROWS, start, sizeof(start));
        }
        multiply_rows<2>(count, static_cast<const uint32_t*>(panel),
                         static_cast<const uint32_t*>(activations) + first * row_words, row_words,
                         row_words, sums, PANEL_ROWS, false);
        for (int r = 0; r < count; r++) {
            std::memcpy(y + (first + r) * y_columns + first_row, sums + r * PANEL_ROWS,
                        static_cast<size_t>(wanted) * sizeof(float));
        }
    }
}

} // namespace

extern const PanelKernel bfloat16_avx512_bf16;
const PanelKernel bfloat16_avx512_bf16 = {"bfloat16", Isa::avx512_bf16, panel_bytes,
                                          unpack,     activation_bytes, round_rows,
                                          multiply,   exercise};

} // namespace actquant
