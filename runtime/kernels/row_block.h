// Included only by files that are compiled for one instruction set; see vector.h.
#pragma once

#include "kernels/panel_product.h"

#include <cstring>

namespace actquant {
namespace {

// Weights `first` to first + size - 1 of a row as floats; 0 behind the row, and of rows that the
// weight has not.
inline void read_block(const PackedRows& weight, int64_t row, int64_t first, int64_t size,
                       float* floats) {
    int64_t count = 0;
    if (row < weight.rows) {
        count = weight.columns - first < size ? weight.columns - first : size;
        const char* blocks = static_cast<const char*>(weight.data) +
                             static_cast<size_t>(row) * weight.row_bytes +
                             static_cast<size_t>(first / weight.block) * weight.block_bytes;
        weight.to_float(blocks, floats, count);
    }
    std::memset(floats + count, 0, static_cast<size_t>(size - count) * sizeof(float));
}

} // namespace
} // namespace actquant
