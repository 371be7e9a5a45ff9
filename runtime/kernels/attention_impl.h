// Attention for one instruction set. Included by attention_*.cpp, which define what
// panel_multiply.h asks for, and
//   ACTQUANT_KERNEL, ACTQUANT_KERNEL_NAME  the kernel and its name
//
// Keys are the columns of panels for the scores, dimensions of values those for the results.
#pragma once

#include "kernels/attention.h"
#include "kernels/panel_multiply.h"

namespace actquant {
namespace {

constexpr int64_t PANEL = 2 * W;
constexpr int64_t PER_WORD = ACTQUANT_BFLOAT16 ? 2 : 1;
// Keys whose scores are worked on at once: these and their values stay in the first cache.
constexpr int64_t KEY_BLOCK = 256;

inline int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

struct Sizes {
    int64_t score_steps;  // words of a query
    int64_t padded_keys;  // whole panels
    int64_t value_steps;  // words of a row of weights
    int64_t padded_width; // of values: whole vectors
    int64_t key_words;    // of one head's keys, packed
    int64_t value_words;
};

Sizes sizes_of(const AttentionShape& shape) {
    Sizes sizes;
    sizes.score_steps = rounded_up(shape.width, PER_WORD) / PER_WORD;
    sizes.padded_keys = rounded_up(shape.keys, PANEL);
    sizes.value_steps = sizes.padded_keys / PER_WORD;
    sizes.padded_width = rounded_up(shape.value_width, W);
    sizes.key_words = sizes.padded_keys * sizes.score_steps;
    sizes.value_words = sizes.value_steps * sizes.padded_width;
    return sizes;
}

struct Range {
    int64_t first;
    int64_t end;
};

inline Range part_of(int64_t count, int thread, int threads) {
    return {count * thread / threads, count * (thread + 1) / threads};
}

inline const float* row_of(const Rows& rows, int64_t batch, int64_t head, int64_t row) {
    return reinterpret_cast<const float*>(static_cast<const char*>(rows.data) + batch * rows.batch +
                                          head * rows.head + row * rows.row);
}

void pack_keys(const AttentionShape& shape, const Sizes& sizes, const Rows& k, int64_t batch,
               int64_t head, int64_t first_key, uint32_t* panel, uint32_t* words) {
    for (int64_t column = 0; column < PANEL; column++) {
        int64_t key = first_key + column;
        if (key < shape.keys) {
            to_words(row_of(k, batch, head, key), shape.width, 1.0f, words);
        }
        for (int64_t step = 0; step < sizes.score_steps; step++) {
            panel[step * PANEL + column] = key < shape.keys ? words[step] : 0;
        }
    }
}

// Panels of values lie behind each other, each with all of its steps.
void pack_values(const AttentionShape& shape, const Sizes& sizes, const Rows& v, int64_t batch,
                 int64_t head, int64_t first_key, uint32_t* packed) {
    for (int64_t key = first_key; key < first_key + PANEL; key += PER_WORD) {
        const float* row = row_of(v, batch, head, key);
        for (int64_t first = 0; first < sizes.padded_width; first += PANEL) {
            int64_t columns =
                sizes.padded_width - first < PANEL ? sizes.padded_width - first : PANEL;
            uint32_t* word = packed + first * sizes.value_steps + key / PER_WORD * columns;
            for (int64_t column = 0; column < columns; column++) {
                bool inside = first + column < shape.value_width;
#if ACTQUANT_BFLOAT16
                uint32_t low = inside && key < shape.keys ? bfloat16_of(row[first + column]) : 0;
                uint32_t high = inside && key + 1 < shape.keys
                                    ? bfloat16_of(row_of(v, batch, head, key + 1)[first + column])
                                    : 0;
                word[column] = low | high << 16;
#else
                float x = inside && key < shape.keys ? row[first + column] : 0.0f;
                std::memcpy(word + column, &x, 4);
#endif
            }
        }
    }
}

size_t packed_bytes(const AttentionShape& shape) {
    Sizes sizes = sizes_of(shape);
    return static_cast<size_t>(shape.batch * shape.kv_heads *
                               (sizes.key_words + sizes.value_words)) *
           4;
}

// A head's keys, then its values.
inline uint32_t* head_of(const AttentionOperands& operands, const Sizes& sizes, int64_t head) {
    return static_cast<uint32_t*>(operands.packed) + head * (sizes.key_words + sizes.value_words);
}

void pack(const AttentionShape& shape, const AttentionOperands& operands, int thread, int threads) {
    Sizes sizes = sizes_of(shape);
    int64_t panels = sizes.padded_keys / PANEL;
    Range units = part_of(shape.batch * shape.kv_heads * panels, thread, threads);
    uint32_t words[MAX_ATTENTION_WIDTH];
    for (int64_t unit = units.first; unit < units.end; unit++) {
        int64_t head = unit / panels;
        int64_t first_key = unit % panels * PANEL;
        uint32_t* packed = head_of(operands, sizes, head);
        pack_keys(shape, sizes, operands.k, head / shape.kv_heads, head % shape.kv_heads, first_key,
                  packed + first_key * sizes.score_steps, words);
        pack_values(shape, sizes, operands.v, head / shape.kv_heads, head % shape.kv_heads,
                    first_key, packed + sizes.key_words);
    }
}

// Of the rows that are worked on: words of queries, scores of a block of keys, the weights that
// they become, and results.
struct Scratch {
    uint32_t* queries;
    float* scores;
    uint32_t* weights;
    float* results;
};

int64_t scratch_words(const Sizes& sizes) {
    return MAX_ROWS * (sizes.score_steps + KEY_BLOCK + KEY_BLOCK / PER_WORD + sizes.padded_width);
}

size_t scratch_bytes(const AttentionShape& shape) {
    return static_cast<size_t>(scratch_words(sizes_of(shape))) * 4;
}

// A row's softmax so far: the largest score, and the sum of exp(score - largest).
struct Softmax {
    float largest = -3e38f;
    float sum = 0.0f;
};

// Scores of a block of keys -> exp(score - largest) as words. What was summed up before is scaled
// to the largest score of all. keys: those that there are; count: whole panels.
void soften(Softmax& row, float* scores, int64_t keys, int64_t count, const float* mask,
            uint32_t* weights, float* results, int64_t width) {
    for (int64_t key = keys; key < count; key++) {
        scores[key] = -3e38f;
    }
    if (mask != nullptr) {
        for (int64_t key = 0; key < keys; key++) {
            scores[key] += mask[key];
        }
    }
    Vec top = all(row.largest);
    for (int64_t key = 0; key < count; key += W) {
        top = larger(top, load(scores + key));
    }
    Vec largest = all(largest_element(top));
    float before = exponential(all(row.largest) - largest)[0];
    if (row.sum != 0.0f && before != 1.0f) {
        for (int64_t k = 0; k < width; k++) {
            results[k] *= before;
        }
    }
    Vec sum = Vec{};
    for (int64_t key = 0; key < count; key += W) {
        Vec difference = load(scores + key) - largest;
#if ACTQUANT_BFLOAT16
        Vec weight = coarse_exponential(difference);
        store(reinterpret_cast<uint16_t*>(weights) + key, bfloat16(weight));
#else
        Vec weight = exponential(difference);
        store(weights + key, weight);
#endif
        sum += weight;
    }
    row.largest = largest[0];
    row.sum = row.sum * before + sum_of_elements(sum);
}

// Adds the products of a block's weights with its values to the results.
void add_values(const Sizes& sizes, const uint32_t* values, const Scratch& scratch, int rows,
                int64_t first_key, int64_t count) {
    int64_t steps = count / PER_WORD;
    int64_t first = first_key / PER_WORD;
    for (int64_t column = 0; column < sizes.padded_width; column += PANEL) {
        const uint32_t* panel = values + column * sizes.value_steps;
        float* results = scratch.results + column;
        if (column + PANEL <= sizes.padded_width) {
            multiply_rows<2>(rows, panel + first * PANEL, scratch.weights, KEY_BLOCK / PER_WORD,
                             steps, results, sizes.padded_width, first_key == 0);
        } else {
            multiply_rows<1>(rows, panel + first * W, scratch.weights, KEY_BLOCK / PER_WORD, steps,
                             results, sizes.padded_width, first_key == 0);
        }
    }
}

// The rows of one head from `query` on.
void attend_rows(const AttentionShape& shape, const Sizes& sizes, const AttentionOperands& operands,
                 const Scratch& scratch, int64_t batch, int64_t head, int64_t query, int rows) {
    int64_t kv_head = batch * shape.kv_heads + head / (shape.heads / shape.kv_heads);
    const uint32_t* keys = head_of(operands, sizes, kv_head);
    Softmax softmax[MAX_ROWS];
    for (int r = 0; r < rows; r++) {
        to_words(row_of(operands.q, batch, head, query + r), shape.width, shape.scale,
                 scratch.queries + r * sizes.score_steps);
    }
    for (int64_t first = 0; first < sizes.padded_keys; first += KEY_BLOCK) {
        int64_t count = smaller(KEY_BLOCK, sizes.padded_keys - first);
        for (int64_t key = 0; key < count; key += PANEL) {
            multiply_rows<2>(rows, keys + (first + key) * sizes.score_steps, scratch.queries,
                             sizes.score_steps, sizes.score_steps, scratch.scores + key, KEY_BLOCK,
                             true);
        }
        for (int r = 0; r < rows; r++) {
            const float* mask = operands.mask.data == nullptr
                                    ? nullptr
                                    : row_of(operands.mask, batch, head, query + r) + first;
            soften(softmax[r], scratch.scores + r * KEY_BLOCK, smaller(count, shape.keys - first),
                   count, mask, scratch.weights + r * (KEY_BLOCK / PER_WORD),
                   scratch.results + r * sizes.padded_width, sizes.padded_width);
        }
        add_values(sizes, keys + sizes.key_words, scratch, rows, first, count);
    }
    for (int r = 0; r < rows; r++) {
        float* result =
            operands.result +
            ((batch * shape.queries + query + r) * shape.heads + head) * shape.value_width;
        const float* found = scratch.results + r * sizes.padded_width;
        float factor = 1.0f / softmax[r].sum;
        for (int64_t k = 0; k < shape.value_width; k++) {
            result[k] = found[k] * factor;
        }
    }
}

void attend(const AttentionShape& shape, const AttentionOperands& operands, void* memory,
            int thread, int threads) {
    Sizes sizes = sizes_of(shape);
    Scratch scratch;
    scratch.queries = static_cast<uint32_t*>(memory);
    scratch.scores = reinterpret_cast<float*>(scratch.queries + MAX_ROWS * sizes.score_steps);
    scratch.weights = reinterpret_cast<uint32_t*>(scratch.scores + MAX_ROWS * KEY_BLOCK);
    scratch.results = reinterpret_cast<float*>(scratch.weights + MAX_ROWS * (KEY_BLOCK / PER_WORD));
    // Tiles of almost the same height: 50 rows are 5 of 10, not 4 of 12 and one of 2.
    int64_t tiles = (shape.queries + MAX_ROWS - 1) / MAX_ROWS;
    Range units = part_of(shape.batch * shape.heads * tiles, thread, threads);
    for (int64_t unit = units.first; unit < units.end; unit++) {
        int64_t head = unit / tiles;
        Range queries =
            part_of(shape.queries, static_cast<int>(unit % tiles), static_cast<int>(tiles));
        attend_rows(shape, sizes, operands, scratch, head / shape.heads, head % shape.heads,
                    queries.first, static_cast<int>(queries.end - queries.first));
    }
}

} // namespace

extern const AttentionKernel ACTQUANT_KERNEL;
const AttentionKernel ACTQUANT_KERNEL = {ACTQUANT_KERNEL_NAME,
                                         ACTQUANT_BFLOAT16 ? "bfloat16" : "f32",
                                         packed_bytes,
                                         pack,
                                         scratch_bytes,
                                         attend,
                                         exercise};

} // namespace actquant
