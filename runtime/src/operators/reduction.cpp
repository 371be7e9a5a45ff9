// Operators that reduce windows, groups or whole dimensions to fewer elements.
#include "common/limits.h"
#include "graph/graph_builder.h"
#include "operators/operators.h"
#include "program/dimensions.h"

#include <algorithm>

namespace actquant {
namespace {

// The reduced dimensions come first, in ggml's order, so that each sum is over one row.
ggml_tensor* reduced_first(GraphBuilder& graph, const Instruction& instruction,
                           const Shape& source) {
    Layout layout(source);
    bool is_reduced[4] = {};
    for (size_t dimension : reduced_dimensions(instruction, source)) {
        int axis = layout.axis(dimension);
        if (axis >= 0) {
            is_reduced[axis] = true;
        }
    }
    ggml_tensor* x = graph.tensor(instruction, 0);
    int target[4];
    int next = 0;
    int64_t count = 1;
    for (bool reduced : {true, false}) {
        for (int axis = 0; axis < 4; axis++) {
            if (is_reduced[axis] == reduced) {
                target[axis] = next++;
                count *= reduced ? x->ne[axis] : 1;
            }
        }
    }
    if (!std::is_sorted(target, target + 4)) {
        x = ggml_permute(graph.ggml, x, target[0], target[1], target[2], target[3]);
    }
    return graph.reshaped(x, {count, element_count(source) / count, 1, 1});
}

template <ggml_tensor* (*reduce)(ggml_context*, ggml_tensor*)>
ggml_tensor* reduction(GraphBuilder& graph, const Instruction& instruction) {
    const Shape& source = graph.shape_of(instruction, 0);
    if (reduced_shape(instruction, source) != instruction.shape) {
        instruction.fail("the operand is " + to_string(source));
    }
    ggml_tensor* rows = graph.contiguous(reduced_first(graph, instruction, source));
    return graph.reshaped(reduce(graph.ggml, rows), ggml_extents(instruction.shape));
}

struct Window {
    int kernel[2], stride[2], padding[2]; // [height, width]
};

Window window(const Instruction& instruction, const Shape& source, bool has_padding) {
    Window result = {};
    auto read = [&](const char* key, int* values) {
        Shape list = instruction.pair(key, 0, limits::window);
        std::copy(list.begin(), list.end(), values);
    };
    read("kernel", result.kernel);
    read("stride", result.stride);
    if (has_padding) {
        read("pad", result.padding);
    }
    bool fits = source.size() == 4;
    Shape expected = fits ? Shape(source.begin(), source.begin() + 2) : Shape();
    for (int k = 0; fits && k < 2; k++) {
        int64_t room = source[2 + k] + 2 * result.padding[k] - result.kernel[k];
        fits = result.kernel[k] >= 1 && result.stride[k] >= 1 && result.padding[k] >= 0 &&
               2 * result.padding[k] <= result.kernel[k] && room >= 0;
        expected.push_back(fits ? room / result.stride[k] + 1 : 0);
    }
    if (!fits || expected != instruction.shape) {
        instruction.fail("the windows do not fit the operand " + to_string(source));
    }
    return result;
}

template <ggml_op_pool pool>
ggml_tensor* pool2d(GraphBuilder& graph, const Instruction& instruction) {
    Window w = window(instruction, graph.shape_of(instruction, 0), pool == GGML_OP_POOL_MAX);
    return ggml_pool_2d(graph.ggml, graph.contiguous(graph.tensor(instruction, 0)), pool,
                        w.kernel[1], w.kernel[0], w.stride[1], w.stride[0],
                        static_cast<float>(w.padding[1]), static_cast<float>(w.padding[0]));
}

ggml_tensor* per_channel(GraphBuilder& graph, const Instruction& instruction, size_t operand,
                         int64_t channels) {
    if (element_count(graph.shape_of(instruction, operand)) != channels) {
        instruction.fail("the operand " + instruction.operands[operand] + " is " +
                         to_string(graph.shape_of(instruction, operand)));
    }
    return graph.reshaped(graph.tensor(instruction, operand), {1, 1, channels, 1});
}

ggml_tensor* group_norm(GraphBuilder& graph, const Instruction& instruction) {
    const Shape& source = graph.shape_of(instruction, 0);
    int64_t groups = instruction.integer("groups", 1, INT32_MAX);
    if (source != instruction.shape || source.size() < 2 || source[1] % groups != 0) {
        instruction.fail("the operand is " + to_string(source));
    }
    size_t has_weight = instruction.integer("w", 0, 1) != 0;
    size_t has_bias = instruction.integer("b", 0, 1) != 0;
    if (instruction.operands.size() != 1 + has_weight + has_bias) {
        instruction.fail("w and b do not agree with the number of operands");
    }
    int64_t batch = source[0];
    int64_t channels = source[1];
    ggml_tensor* x = graph.contiguous(
        graph.reshaped(graph.tensor(instruction, 0),
                       {element_count(source) / (batch * channels), 1, channels, batch}));
    x = ggml_group_norm(graph.ggml, x, static_cast<int>(groups), instruction.positive("eps"));
    if (has_weight) {
        x = ggml_mul(graph.ggml, x, per_channel(graph, instruction, 1, channels));
    }
    if (has_bias) {
        x = ggml_add(graph.ggml, x, per_channel(graph, instruction, 1 + has_weight, channels));
    }
    return graph.reshaped(x, ggml_extents(instruction.shape));
}

} // namespace

void add_reduction_operators(std::map<std::string, DeviceOperator>& table) {
    table["sum"] = {{1, 1, {"dims", "keep"}}, reduction<ggml_sum_rows>};
    table["mean"] = {{1, 1, {"dims", "keep"}}, reduction<ggml_mean>};
    table["max_pool2d"] = {{1, 1, {"kernel", "stride", "pad"}}, pool2d<GGML_OP_POOL_MAX>};
    table["avg_pool2d"] = {{1, 1, {"kernel", "stride"}}, pool2d<GGML_OP_POOL_AVG>};
    table["group_norm"] = {{1, 3, {"groups", "eps", "w", "b"}}, group_norm};
}

} // namespace actquant
