// The inner loop of 8-bit products for instructions that add four products of bytes to an int32.
// Included by int8_impl.h; int8_*.cpp define
//   ACTQUANT_DOT  adds to a vector of int32 the sums of four products of a weight's bytes with an
//                 activation's
#pragma once

namespace actquant {
namespace {

constexpr int64_t TILE_COLUMNS = 2 * W;

template <int ROWS> void multiply_tile(const Tile& tile) {
    IntVec total[ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) {
        total[r][0] = total[r][1] = IntVec{} + tile.corrections[r];
    }
    for (int64_t step = 0; step < WORDS; step++) {
        IntVec low, high;
        std::memcpy(&low, tile.words + step * PANEL_ROWS, sizeof(low));
        std::memcpy(&high, tile.words + step * PANEL_ROWS + W, sizeof(high));
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            int32_t word;
            std::memcpy(&word, tile.bytes + r * BLOCK + step * 4, 4);
            IntVec all = IntVec{} + word;
            ACTQUANT_DOT(total[r][0], low, all);
            ACTQUANT_DOT(total[r][1], high, all);
        }
    }
    Vec low_scales = load(tile.weight_scales);
    Vec high_scales = load(tile.weight_scales + W);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) {
        float* sums = tile.sums + r * tile.sum_stride;
        float scale = tile.scales[r];
        store(sums, load(sums) + __builtin_convertvector(total[r][0], Vec) * (low_scales * scale));
        store(sums + W,
              load(sums + W) + __builtin_convertvector(total[r][1], Vec) * (high_scales * scale));
    }
}

} // namespace
} // namespace actquant
