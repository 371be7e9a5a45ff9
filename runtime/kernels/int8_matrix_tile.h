// The inner loop of 8-bit products for Arm's I8MM: an instruction multiplies eight bytes of two
// rows by eight bytes of two columns. Included by int8_impl.h.
#pragma once

namespace actquant {
namespace {

constexpr int64_t TILE_COLUMNS = 8;
constexpr int COLUMN_PAIRS = TILE_COLUMNS / 2;

// Bytes first to first + 7 of two rows; the second may be missing.
inline int8x16_t row_pair(const int8_t* row, bool has_second) {
    int8x8_t low = vld1_s8(row);
    return vcombine_s8(low, has_second ? vld1_s8(row + BLOCK) : vdup_n_s8(0));
}

inline void add_row(float* sums, int32x4_t low, int32x4_t high, const float* weight_scales,
                    float scale) {
    vst1q_f32(sums, vfmaq_f32(vld1q_f32(sums), vcvtq_f32_s32(low),
                              vmulq_n_f32(vld1q_f32(weight_scales), scale)));
    vst1q_f32(sums + 4, vfmaq_f32(vld1q_f32(sums + 4), vcvtq_f32_s32(high),
                                  vmulq_n_f32(vld1q_f32(weight_scales + 4), scale)));
}

template <int ROWS> void multiply_tile(const Tile& tile) {
    constexpr int row_pairs = (ROWS + 1) / 2;
    int32x4_t total[row_pairs][COLUMN_PAIRS];
    for (int r = 0; r < row_pairs; r++) {
        for (int c = 0; c < COLUMN_PAIRS; c++) {
            total[r][c] = vdupq_n_s32(0);
        }
    }
    for (int64_t group = 0; group < BLOCK / 8; group++) {
        const int8_t* weights =
            reinterpret_cast<const int8_t*>(tile.words + group * PANEL_ROWS * GROUP_WORDS);
        int8x16_t columns[COLUMN_PAIRS];
#pragma GCC unroll 4
        for (int c = 0; c < COLUMN_PAIRS; c++) {
            columns[c] = vld1q_s8(weights + 16 * c);
        }
#pragma GCC unroll 5
        for (int r = 0; r < row_pairs; r++) {
            int8x16_t rows = row_pair(tile.bytes + 2 * r * BLOCK + 8 * group, 2 * r + 1 < ROWS);
#pragma GCC unroll 4
            for (int c = 0; c < COLUMN_PAIRS; c++) {
                total[r][c] = vmmlaq_s32(total[r][c], rows, columns[c]);
            }
        }
    }
#pragma GCC unroll 5
    for (int r = 0; r < row_pairs; r++) {
        // Of every pair of columns the lower halves belong to the first row.
        auto half = [&](int c, bool second) {
            return second ? vget_high_s32(total[r][c]) : vget_low_s32(total[r][c]);
        };
        for (int side = 0; side < 2 && 2 * r + side < ROWS; side++) {
            bool second = side == 1;
            add_row(tile.sums + (2 * r + side) * tile.sum_stride,
                    vcombine_s32(half(0, second), half(1, second)),
                    vcombine_s32(half(2, second), half(3, second)), tile.weight_scales,
                    tile.scales[2 * r + side]);
        }
    }
}

} // namespace
} // namespace actquant
