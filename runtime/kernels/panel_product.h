#pragma once

#include "kernels/isa.h"

#include <cstddef>
#include <cstdint>

namespace actquant {

// Rows of a weight in any format of blocks, 256 or fewer weights each.
struct PackedRows {
    const void* data = nullptr;
    size_t row_bytes = 0;
    int64_t block = 1; // weights
    size_t block_bytes = 0;
    int64_t columns = 0; // weights of a row, whole blocks
    int64_t rows = 0;
    void (*to_float)(const void* blocks, float* weights, int64_t count) = nullptr;
};

// y = x Wᵀ + bias with W unpacked into panels of PANEL_ROWS rows: for each step along the sum one
// word for each row, of four 8-bit integers or two bfloat16. Activations are rounded to the same.
// 8-bit integers have one scale for each row and 256 of its elements, of weights and activations
// alike.
constexpr int64_t PANEL_ROWS = 32;

struct PanelKernel {
    const char* name;
    Isa isa; // that it needs
    size_t (*panel_bytes)(int64_t columns);
    void (*unpack)(const PackedRows& weight, int64_t first_row, void* panel);
    // Of all rows of activations; `columns` are the weight's, of which x may have fewer.
    size_t (*activation_bytes)(int64_t columns, int64_t rows);
    void (*round)(const float* x, int64_t width, int64_t columns, int64_t rows, int64_t first,
                  int64_t end, void* activations);
    // Columns first_row to first_row + PANEL_ROWS of y [rows, y_columns], as far as it has them;
    // bias may be null.
    void (*multiply)(const void* panel, const void* activations, int64_t columns, int64_t rows,
                     const float* bias, float* y, int64_t y_columns, int64_t first_row);
    // As AttentionKernel::exercise.
    double (*exercise)(int repetitions);
};

// Null where this instruction set has none that is faster than ggml's.
const PanelKernel* int8_kernel(Isa isa);
const PanelKernel* bfloat16_kernel(Isa isa);

} // namespace actquant
