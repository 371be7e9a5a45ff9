// The layouts are those of ggml's dequantize_row_* functions (ggml-quants.c), read backwards.
#include "quantization/blocks.h"

#include <ggml.h>

#define GGML_COMMON_DECL_CPP
#include <ggml-common.h>
#define GGML_COMMON_IMPL_CPP
#include <ggml-common.h>

#include <cstring>
#include <type_traits>
#include <vector>

namespace actquant {
namespace {

float half(ggml_half bits) {
    return ggml_fp16_to_fp32(bits);
}

template <typename Block> const Block& as(const uint8_t* block) {
    return *reinterpret_cast<const Block*>(block);
}

template <typename Block> Block& as(uint8_t* block) {
    return *reinterpret_cast<Block*>(block);
}

void fill(float* values, int count, float value) {
    for (int k = 0; k < count; k++) {
        values[k] = value;
    }
}

uint32_t read_u32(const void* source) {
    uint32_t value = 0;
    std::memcpy(&value, source, sizeof value);
    return value;
}

// Seven of the eight signs; the last follows from the number of the others.
unsigned seven_signs(unsigned signs) {
    return signs & 127;
}

// Grids.

template <typename Number, typename Word>
Grid make_grid(const Word* table, int entries, Signs signs, std::vector<float>& values) {
    constexpr int width = sizeof(Word);
    values.resize(static_cast<size_t>(entries) * width);
    for (int n = 0; n < entries; n++) {
        const auto* bytes = reinterpret_cast<const Number*>(&table[n]);
        for (int k = 0; k < width; k++) {
            values[static_cast<size_t>(k) * entries + n] = bytes[k];
        }
    }
    return {entries, width, signs, values.data()};
}

template <typename Word, int entries, Signs signs> const Grid& grid_of(const Word* table) {
    static_assert(entries % Grid::entries_at_once == 0);
    using Number = std::conditional_t<signs == Signs::within, int8_t, uint8_t>;
    static std::vector<float> values;
    static const Grid grid = make_grid<Number>(table, entries, signs, values);
    return grid;
}

// Of -1, 0 and 1, moved a little.

void scales_iq1_s(const uint8_t* bytes, float* scale, float* offset) {
    const auto& block = as<block_iq1_s>(bytes);
    for (int part = 0; part < 8; part++) {
        unsigned word = block.qh[part];
        float size = half(block.d) * static_cast<float>(2 * (word >> 12 & 7) + 1);
        fill(scale + 32 * part, 32, size);
        fill(offset + 32 * part, 32, (word & 0x8000) != 0 ? -size * IQ1S_DELTA : size * IQ1S_DELTA);
    }
}

void group_iq1_s(uint8_t* bytes, int group, const int* entries, unsigned /*signs*/) {
    auto& block = as<block_iq1_s>(bytes);
    int shift = 3 * (group % 4);
    unsigned high = static_cast<unsigned>(entries[0]) >> 8;
    block.qs[group] = static_cast<uint8_t>(entries[0]);
    uint16_t& word = block.qh[group / 4];
    word = static_cast<uint16_t>((word & ~(7U << shift)) | (high << shift));
}

void scales_iq1_m(const uint8_t* bytes, float* scale, float* offset) {
    const auto& block = as<block_iq1_m>(bytes);
    uint16_t words[4];
    std::memcpy(words, block.scales, sizeof words);
    unsigned bits = 0; // of the half-precision scale, one nibble a word
    for (int k = 0; k < 4; k++) {
        bits |= static_cast<unsigned>(words[k] >> 12) << (4 * k);
    }
    for (int group = 0; group < 32; group++) {
        int part = group / 2; // of 16 weights
        int three_bits = words[part / 4] >> (3 * (part % 4)) & 7;
        float size = half(static_cast<ggml_half>(bits)) * static_cast<float>(2 * three_bits + 1);
        bool is_below = (block.qh[group / 2] >> (4 * (group % 2)) & 8) != 0;
        fill(scale + 8 * group, 8, size);
        fill(offset + 8 * group, 8, is_below ? -size * IQ1M_DELTA : size * IQ1M_DELTA);
    }
}

void group_iq1_m(uint8_t* bytes, int group, const int* entries, unsigned /*signs*/) {
    auto& block = as<block_iq1_m>(bytes);
    int shift = 4 * (group % 2);
    unsigned high = static_cast<unsigned>(entries[0]) >> 8;
    block.qs[group] = static_cast<uint8_t>(entries[0]);
    uint8_t& word = block.qh[group / 2];
    word = static_cast<uint8_t>((word & ~(7U << shift)) | (high << shift));
}

// A type's 32 weights with one scale, four groups of 8.

void scales_iq2_xxs(const uint8_t* bytes, float* scale, float* offset) {
    const auto& block = as<block_iq2_xxs>(bytes);
    for (int part = 0; part < 8; part++) {
        uint32_t word = read_u32(block.qs + 4 * part + 2);
        fill(scale + 32 * part, 32,
             half(block.d) * (0.5F + static_cast<float>(word >> 28)) * 0.25F);
    }
    fill(offset, QK_K, 0);
}

void group_iq2_xxs(uint8_t* bytes, int group, const int* entries, unsigned signs) {
    auto& block = as<block_iq2_xxs>(bytes);
    int part = group / 4;
    int shift = 7 * (group % 4);
    reinterpret_cast<uint8_t*>(block.qs + 4 * part)[group % 4] = static_cast<uint8_t>(entries[0]);
    uint32_t word = read_u32(block.qs + 4 * part + 2);
    word = (word & ~(127U << shift)) | (seven_signs(signs) << shift);
    std::memcpy(block.qs + 4 * part + 2, &word, sizeof word);
}

template <typename Block>
void scales_of_nibbles(const uint8_t* bytes, float* scale, float* offset) {
    const auto& block = as<Block>(bytes);
    for (int part = 0; part < 16; part++) {
        int nibble = (block.scales[part / 2] >> (4 * (part % 2))) & 15;
        fill(scale + 16 * part, 16, half(block.d) * (0.5F + static_cast<float>(nibble)) * 0.25F);
    }
    fill(offset, QK_K, 0);
}

void group_iq2_xs(uint8_t* bytes, int group, const int* entries, unsigned signs) {
    as<block_iq2_xs>(bytes).qs[group] =
        static_cast<uint16_t>(static_cast<unsigned>(entries[0]) | (seven_signs(signs) << 9));
}

void group_iq2_s(uint8_t* bytes, int group, const int* entries, unsigned signs) {
    auto& block = as<block_iq2_s>(bytes);
    int shift = 2 * (group % 4);
    unsigned high = static_cast<unsigned>(entries[0]) >> 8;
    block.qs[group] = static_cast<uint8_t>(entries[0]);
    block.qs[QK_K / 8 + group] = static_cast<uint8_t>(signs);
    uint8_t& word = block.qh[group / 4];
    word = static_cast<uint8_t>((word & ~(3U << shift)) | (high << shift));
}

void scales_iq3_xxs(const uint8_t* bytes, float* scale, float* offset) {
    const auto& block = as<block_iq3_xxs>(bytes);
    for (int part = 0; part < 8; part++) {
        uint32_t word = read_u32(block.qs + QK_K / 4 + 4 * part);
        fill(scale + 32 * part, 32, half(block.d) * (0.5F + static_cast<float>(word >> 28)) * 0.5F);
    }
    fill(offset, QK_K, 0);
}

void group_iq3_xxs(uint8_t* bytes, int group, const int* entries, unsigned signs) {
    auto& block = as<block_iq3_xxs>(bytes);
    uint8_t* place = block.qs + QK_K / 4 + 4 * (group / 4);
    int shift = 7 * (group % 4);
    block.qs[2 * group] = static_cast<uint8_t>(entries[0]);
    block.qs[2 * group + 1] = static_cast<uint8_t>(entries[1]);
    uint32_t word = (read_u32(place) & ~(127U << shift)) | (seven_signs(signs) << shift);
    std::memcpy(place, &word, sizeof word);
}

void scales_iq3_s(const uint8_t* bytes, float* scale, float* offset) {
    const auto& block = as<block_iq3_s>(bytes);
    for (int part = 0; part < 8; part++) {
        int nibble = (block.scales[part / 2] >> (4 * (part % 2))) & 15;
        fill(scale + 32 * part, 32, half(block.d) * static_cast<float>(1 + 2 * nibble));
    }
    fill(offset, QK_K, 0);
}

void group_iq3_s(uint8_t* bytes, int group, const int* entries, unsigned signs) {
    auto& block = as<block_iq3_s>(bytes);
    uint8_t& word = block.qh[group / 4];
    for (int k = 0; k < 2; k++) {
        int shift = 2 * (group % 4) + k;
        unsigned high = static_cast<unsigned>(entries[k]) >> 8;
        block.qs[2 * group + k] = static_cast<uint8_t>(entries[k]);
        word = static_cast<uint8_t>((word & ~(1U << shift)) | (high << shift));
    }
    block.signs[group] = static_cast<uint8_t>(signs);
}

// Levels.

constexpr float count_levels[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
constexpr float centred_levels[8] = {-4, -3, -2, -1, 0, 1, 2, 3};
constexpr float curved_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};

void scales_q2_k(const uint8_t* bytes, float* scale, float* offset) {
    const auto& block = as<block_q2_K>(bytes);
    for (int part = 0; part < 16; part++) {
        fill(scale + 16 * part, 16,
             half(block.data.data.d) * static_cast<float>(block.scales[part] & 15));
        fill(offset + 16 * part, 16,
             -half(block.data.data.dmin) * static_cast<float>(block.scales[part] >> 4));
    }
}

// Two bits of weight `position`, in the layout that Q2_K and Q3_K share.
void write_two_bits(uint8_t* words, int position, int bits) {
    uint8_t& word = words[32 * (position / 128) + position % 32];
    int shift = 2 * (position % 128 / 32);
    word = static_cast<uint8_t>((word & ~(3 << shift)) | (bits << shift));
}

void level_q2_k(uint8_t* bytes, int position, int level) {
    write_two_bits(as<block_q2_K>(bytes).qs, position, level);
}

void scales_q3_k(const uint8_t* bytes, float* scale, float* offset) {
    const auto& block = as<block_q3_K>(bytes);
    for (int part = 0; part < 16; part++) {
        int low = (block.scales[part % 8] >> (4 * (part / 8))) & 15;
        int high = (block.scales[8 + part % 4] >> (2 * (part / 4))) & 3;
        fill(scale + 16 * part, 16, half(block.d) * static_cast<float>((low | (high << 4)) - 32));
    }
    fill(offset, QK_K, 0);
}

void level_q3_k(uint8_t* bytes, int position, int level) {
    auto& block = as<block_q3_K>(bytes);
    write_two_bits(block.qs, position, level & 3);
    uint8_t& word = block.hmask[position % 32];
    int shift = position / 32;
    word = static_cast<uint8_t>((word & ~(1 << shift)) | ((level >> 2) << shift));
}

// Scale or minimum `part` of the six-bit ones of Q4_K.
int six_bits(const uint8_t* scales, int part, bool is_minimum) {
    const uint8_t* low = scales + (is_minimum ? 4 : 0);
    if (part < 4) {
        return low[part] & 63;
    }
    int bits = is_minimum ? scales[part + 4] >> 4 : scales[part + 4] & 15;
    return bits | ((low[part - 4] >> 6) << 4);
}

void scales_q4_k(const uint8_t* bytes, float* scale, float* offset) {
    const auto& block = as<block_q4_K>(bytes);
    for (int part = 0; part < 8; part++) {
        fill(scale + 32 * part, 32,
             half(block.data.data.d) * static_cast<float>(six_bits(block.scales, part, false)));
        fill(offset + 32 * part, 32,
             -half(block.data.data.dmin) * static_cast<float>(six_bits(block.scales, part, true)));
    }
}

void level_q4_k(uint8_t* bytes, int position, int level) {
    uint8_t& word = as<block_q4_K>(bytes).qs[32 * (position / 64) + position % 32];
    int shift = position % 64 / 32 * 4;
    word = static_cast<uint8_t>((word & ~(15 << shift)) | (level << shift));
}

// A nibble of 32 weights: the first 16 are the low ones.
void write_nibble(uint8_t* words, int position, int level) {
    uint8_t& word = words[16 * (position / 32) + position % 16];
    int shift = position % 32 / 16 * 4;
    word = static_cast<uint8_t>((word & ~(15 << shift)) | (level << shift));
}

void scales_iq4_xs(const uint8_t* bytes, float* scale, float* offset) {
    const auto& block = as<block_iq4_xs>(bytes);
    for (int part = 0; part < 8; part++) {
        int low = (block.scales_l[part / 2] >> (4 * (part % 2))) & 15;
        int high = (block.scales_h >> (2 * part)) & 3;
        fill(scale + 32 * part, 32, half(block.d) * static_cast<float>((low | (high << 4)) - 32));
    }
    fill(offset, QK_K, 0);
}

void level_iq4_xs(uint8_t* bytes, int position, int level) {
    write_nibble(as<block_iq4_xs>(bytes).qs, position, level);
}

void scales_iq4_nl(const uint8_t* bytes, float* scale, float* offset) {
    fill(scale, QK4_NL, half(as<block_iq4_nl>(bytes).d));
    fill(offset, QK4_NL, 0);
}

void level_iq4_nl(uint8_t* bytes, int position, int level) {
    write_nibble(as<block_iq4_nl>(bytes).qs, position, level);
}

template <typename Block>
BlockFormat grid_format(const Grid& grid, decltype(BlockFormat::read_scales) read_scales,
                        decltype(BlockFormat::write_group) write_group) {
    BlockFormat format{QK_K, sizeof(Block)};
    format.grid = &grid;
    format.read_scales = read_scales;
    format.write_group = write_group;
    return format;
}

template <typename Block, int count>
BlockFormat level_format(int size, const float (&levels)[count],
                         decltype(BlockFormat::read_scales) read_scales,
                         decltype(BlockFormat::write_level) write_level, int level_count = count) {
    BlockFormat format{size, sizeof(Block)};
    format.levels = levels;
    format.level_count = level_count;
    format.has_even_levels = levels[1] - levels[0] == 1;
    format.read_scales = read_scales;
    format.write_level = write_level;
    return format;
}

} // namespace

BlockFormat block_format(ggml_type type) {
    switch (type) {
    case GGML_TYPE_IQ1_S:
        return grid_format<block_iq1_s>(grid_of<uint64_t, NGRID_IQ1S, Signs::within>(iq1s_grid),
                                        scales_iq1_s, group_iq1_s);
    case GGML_TYPE_IQ1_M:
        return grid_format<block_iq1_m>(grid_of<uint64_t, NGRID_IQ1S, Signs::within>(iq1s_grid),
                                        scales_iq1_m, group_iq1_m);
    case GGML_TYPE_IQ2_XXS:
        return grid_format<block_iq2_xxs>(grid_of<uint64_t, 256, Signs::even>(iq2xxs_grid),
                                          scales_iq2_xxs, group_iq2_xxs);
    case GGML_TYPE_IQ2_XS:
        return grid_format<block_iq2_xs>(grid_of<uint64_t, 512, Signs::even>(iq2xs_grid),
                                         scales_of_nibbles<block_iq2_xs>, group_iq2_xs);
    case GGML_TYPE_IQ2_S:
        return grid_format<block_iq2_s>(grid_of<uint64_t, 1024, Signs::free>(iq2s_grid),
                                        scales_of_nibbles<block_iq2_s>, group_iq2_s);
    case GGML_TYPE_IQ3_XXS:
        return grid_format<block_iq3_xxs>(grid_of<uint32_t, 256, Signs::even>(iq3xxs_grid),
                                          scales_iq3_xxs, group_iq3_xxs);
    case GGML_TYPE_IQ3_S:
        return grid_format<block_iq3_s>(grid_of<uint32_t, 512, Signs::free>(iq3s_grid),
                                        scales_iq3_s, group_iq3_s);
    case GGML_TYPE_Q2_K:
        return level_format<block_q2_K>(QK_K, count_levels, scales_q2_k, level_q2_k, 4);
    case GGML_TYPE_Q3_K:
        return level_format<block_q3_K>(QK_K, centred_levels, scales_q3_k, level_q3_k);
    case GGML_TYPE_Q4_K:
        return level_format<block_q4_K>(QK_K, count_levels, scales_q4_k, level_q4_k);
    case GGML_TYPE_IQ4_XS:
        return level_format<block_iq4_xs>(QK_K, curved_levels, scales_iq4_xs, level_iq4_xs);
    case GGML_TYPE_IQ4_NL:
        return level_format<block_iq4_nl>(QK4_NL, curved_levels, scales_iq4_nl, level_iq4_nl);
    default:
        return {static_cast<int>(ggml_blck_size(type)), static_cast<int>(ggml_type_size(type))};
    }
}

} // namespace actquant
