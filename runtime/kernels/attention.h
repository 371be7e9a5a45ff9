#pragma once

#include "kernels/isa.h"

#include <cstddef>
#include <cstdint>

namespace actquant {

// Where rows of floats lie: element (b, h, i) begins at data + b·batch + h·head + i·row, all in
// bytes.
struct Rows {
    const void* data = nullptr;
    size_t batch = 0;
    size_t head = 0;
    size_t row = 0;
};

// Queries and keys may be this wide.
constexpr int64_t MAX_ATTENTION_WIDTH = 4096;

struct AttentionShape {
    int64_t batch = 1;
    int64_t heads = 1;
    int64_t kv_heads = 1; // divides heads: as many heads in a row share keys and values
    int64_t queries = 1;
    int64_t keys = 1;
    int64_t width = 1;       // of queries and keys
    int64_t value_width = 1; // of values and results
    float scale = 1.0f;
};

struct AttentionOperands {
    Rows q, k, v;
    // Added to scaled scores, [batch or 1, heads or 1, queries, keys]; null without one.
    Rows mask;
    void* packed = nullptr;  // AttentionKernel::packed_bytes
    float* result = nullptr; // [batch, queries, heads, value_width]
};

// softmax(scale · q kᵀ + mask) v for one instruction set, in two steps that all threads take
// together: keys and values into the layout that products read, then all queries. Scores and sums
// are f32; products are f32, or take bfloat16 operands.
struct AttentionKernel {
    const char* name;
    const char* products; // f32 or bfloat16
    size_t (*packed_bytes)(const AttentionShape& shape);
    void (*pack)(const AttentionShape& shape, const AttentionOperands& operands, int thread,
                 int threads);
    // Bytes that a thread needs beside, and the step itself.
    size_t (*scratch_bytes)(const AttentionShape& shape);
    void (*attend)(const AttentionShape& shape, const AttentionOperands& operands, void* scratch,
                   int thread, int threads);
    // Multiplies and adds what lies in the first cache, again and again; returns how many
    // multiplications and additions that were: with the time they take, what products may reach.
    double (*exercise)(int repetitions);
};

// rounded: bfloat16 operands will do, if that is faster on this instruction set.
const AttentionKernel& attention_kernel(Isa isa, bool rounded);

} // namespace actquant
