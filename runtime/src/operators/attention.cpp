// Attention, its positions and its softmax.
#include "kernels/attention.h"
#include "graph/graph_builder.h"
#include "operators/attention_nodes.h"
#include "operators/operators.h"

#include <algorithm>
#include <cmath>

namespace actquant {
namespace {

ggml_tensor* softmax(GraphBuilder& graph, const Instruction& instruction) {
    const Shape& source = graph.shape_of(instruction, 0);
    if (source != instruction.shape) {
        instruction.fail("the operand is " + to_string(source));
    }
    int axis = Layout(source).axis(instruction.dimension("dim", source.size()));
    ggml_tensor* x = graph.tensor(instruction, 0);
    if (axis <= 0) {
        // A dropped dimension has one element, whose softmax is 1.
        return axis < 0 ? ggml_scale_bias(graph.ggml, graph.contiguous(x), 0.0f, 1.0f)
                        : ggml_soft_max(graph.ggml, graph.contiguous(x));
    }
    int swapped[4] = {0, 1, 2, 3};
    std::swap(swapped[0], swapped[axis]);
    auto swap_axes = [&](ggml_tensor* tensor) {
        return ggml_cont(graph.ggml, ggml_permute(graph.ggml, tensor, swapped[0], swapped[1],
                                                  swapped[2], swapped[3]));
    };
    return swap_axes(ggml_soft_max(graph.ggml, swap_axes(x)));
}

void check_attention(const Instruction& instruction, const Shape& q, const Shape& k,
                     const Shape& v) {
    bool fits = q.size() == 4 && k.size() == 4 && v.size() == 4 && q[0] == k[0] && k[0] == v[0] &&
                k[1] == v[1] && q[1] % k[1] == 0 && k[2] == v[2] && q[3] == k[3];
    if (!fits || instruction.shape != Shape({q[0], q[1], q[2], v[3]})) {
        instruction.fail("q is " + to_string(q) + ", k " + to_string(k) + ", v " + to_string(v));
    }
}

ggml_tensor* causal_mask(GraphBuilder& graph, int64_t rows, int64_t columns) {
    graph.check_constant({rows, columns});
    std::vector<float> data(rows * columns, 0.0f);
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t column = row + 1; column < columns; column++) {
            data[row * columns + column] = -1e30f;
        }
    }
    return graph.constant(std::move(data), {rows, columns});
}

ggml_tensor* attention_mask(GraphBuilder& graph, const Instruction& instruction, const Shape& q,
                            const Shape& k) {
    bool causal = instruction.integer("causal", 0, 1) != 0;
    if (instruction.operands.size() < 4) {
        return causal ? causal_mask(graph, q[2], k[2]) : nullptr;
    }
    Shape own = aligned_right(graph.shape_of(instruction, 3), 4);
    auto fits = [](int64_t extent, int64_t whole) { return extent == 1 || extent == whole; };
    if (own.size() > 4 || !fits(own[0], q[0]) || !fits(own[1], q[1])) {
        instruction.fail("the mask is " + to_string(own) + ", q " + to_string(q));
    }
    return graph.mask(instruction, 3, {own[0], own[1], q[2], k[2]}, causal);
}

// By ggml's own operators. Its flash attention is as exact as the spelled-out form when k and v are
// f32. Its masks are f16 though, in which a masked score cannot be made to vanish beside a fully
// masked row's: such rows must attend uniformly, so masks take the spelled-out form. So does a
// device where nothing may be rounded: its kernels may round keys and values to f16.
ggml_tensor* ggml_attention(GraphBuilder& graph, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v,
                            ggml_tensor* mask, float scale) {
    if (mask == nullptr && (graph.rounded || !graph.on_device)) {
        ggml_tensor* y = ggml_flash_attn_ext(graph.ggml, q, k, graph.contiguous_rows(v), nullptr,
                                             scale, 0.0f, 0.0f);
        ggml_prec_set_acc(y, GGML_PREC_F32);
        return ggml_permute(graph.ggml, y, 0, 2, 1, 3); // from [B,L,H,D]
    }
    graph.check_size({q->ne[3], q->ne[2], q->ne[1], k->ne[1]});
    ggml_tensor* scores = graph.product(k, q);
    ggml_tensor* weights = ggml_soft_max_ext(graph.ggml, scores, mask, scale, 0.0f);
    ggml_tensor* v_transposed = ggml_cont(graph.ggml, ggml_transpose(graph.ggml, v));
    return graph.product(v_transposed, weights);
}

ggml_tensor* sdpa(GraphBuilder& graph, const Instruction& instruction) {
    const Shape& q_shape = graph.shape_of(instruction, 0);
    const Shape& k_shape = graph.shape_of(instruction, 1);
    check_attention(instruction, q_shape, k_shape, graph.shape_of(instruction, 2));
    ggml_tensor* mask = attention_mask(graph, instruction, q_shape, k_shape);
    ggml_tensor* q = graph.contiguous_rows(graph.tensor(instruction, 0));
    ggml_tensor* k = graph.contiguous_rows(graph.tensor(instruction, 1));
    ggml_tensor* v = graph.tensor(instruction, 2);
    float scale = static_cast<float>(instruction.number("scale"));
    if (!std::isfinite(scale)) {
        instruction.fail("the attribute scale=" + instruction.text("scale") + " is not finite");
    }
    return graph.isa == Isa::ggml || q->ne[0] > MAX_ATTENTION_WIDTH
               ? ggml_attention(graph, q, k, v, mask, scale)
               : attention_nodes(graph, q, k, graph.contiguous_rows(v), mask, scale);
}

// ggml's rope computes pos / factor: the factors are the inverse of the program's inv_freq.
ggml_tensor* frequency_factors(GraphBuilder& graph, const Instruction& instruction, int64_t width) {
    int64_t count = element_count(graph.shape_of(instruction, 2));
    if (count != width / 2) {
        instruction.fail("inv_freq has " + std::to_string(count) + " elements for heads of " +
                         std::to_string(width));
    }
    HostValue inverse_frequencies = graph.host_constant(instruction, 2);
    std::vector<float> factors;
    for (double frequency : inverse_frequencies.data) {
        factors.push_back(static_cast<float>(1.0 / frequency));
    }
    return graph.constant(std::move(factors), {width / 2});
}

ggml_tensor* rope(GraphBuilder& graph, const Instruction& instruction) {
    const Shape& shape = graph.shape_of(instruction, 0);
    if (shape.size() != 4 || shape != instruction.shape || shape[3] % 2 != 0) {
        instruction.fail("the operand is " + to_string(shape) + ", expected [B,L,H,D], D even");
    }
    int64_t positions = element_count(graph.shape_of(instruction, 1));
    bool one_per_row = positions == shape[0] * shape[1];
    if (!one_per_row && positions != shape[1]) {
        instruction.fail("there are " + std::to_string(positions) + " positions for " +
                         to_string(shape));
    }
    ggml_tensor* x = graph.contiguous_rows(graph.tensor(instruction, 0));
    if (one_per_row) {
        x = graph.reshaped(x, {shape[3], shape[2], shape[0] * shape[1], 1});
    }
    ggml_tensor* position = graph.indices(instruction, 1, INT32_MAX);
    ggml_tensor* factors = frequency_factors(graph, instruction, shape[3]);
    ggml_tensor* y = ggml_rope_ext(graph.ggml, x, position, factors, static_cast<int>(shape[3]),
                                   GGML_ROPE_TYPE_NEOX, 0, 1.0f, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f);
    return graph.reshaped(y, ggml_extents(instruction.shape));
}

} // namespace

void add_attention_operators(std::map<std::string, DeviceOperator>& table) {
    table["softmax"] = {{1, 1, {"dim"}}, softmax};
    table["sdpa"] = {{3, 4, {"scale", "causal"}}, sdpa};
    table["rope"] = {{3, 3}, rope};
}

} // namespace actquant
