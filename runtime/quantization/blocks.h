#pragma once

#include <ggml.h>

#include <cstdint>

namespace actquant {

enum class Signs {
    free,  // of absolute values: any
    even,  // of absolute values: an even number of a group of 8 is negative
    within // those of the entries
};

// A grid: each entry is a vector of `width` values, of which the nearest is sought under weights.
struct Grid {
    static constexpr int entries_at_once = 32; // that are compared; it divides `entries`
    int entries = 0;
    int width = 0; // 8 or 4
    Signs signs = Signs::free;
    const float* columns = nullptr; // [width, entries]
};

// How one ggml block stands for numbers: value = scale * level + offset, with scale and offset
// fixed by the block and one level, or the entry of a grid, chosen for each weight or group of 8.
struct BlockFormat {
    int size = 0; // weights
    int bytes = 0;
    const Grid* grid = nullptr;    // or
    const float* levels = nullptr; // [level_count]; a type with neither keeps what ggml chose
    int level_count = 0;
    bool has_even_levels = false; // 1 apart
    // Reads scale and offset of every weight [size].
    void (*read_scales)(const uint8_t* block, float* scale, float* offset) = nullptr;
    // Writes the level of a weight.
    void (*write_level)(uint8_t* block, int position, int level) = nullptr;
    // Writes the grid entries (one or two) and the signs of a group of 8.
    void (*write_group)(uint8_t* block, int group, const int* entries, unsigned signs) = nullptr;
};

// Returns the format of a type.
BlockFormat block_format(ggml_type type);

} // namespace actquant
