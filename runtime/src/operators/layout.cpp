// Operators that move elements without changing them.
#include "graph/graph_builder.h"
#include "operators/operators.h"
#include "program/dimensions.h"

#include <algorithm>

namespace actquant {
namespace {

ggml_tensor* reshape(GraphBuilder& graph, const Instruction& instruction) {
    const Shape& source = graph.shape_of(instruction, 0);
    if (element_count(source) != element_count(instruction.shape)) {
        instruction.fail("the operand is " + to_string(source));
    }
    return graph.reshaped(graph.tensor(instruction, 0), ggml_extents(instruction.shape));
}

ggml_tensor* expand(GraphBuilder& graph, const Instruction& instruction) {
    const Shape& source = graph.shape_of(instruction, 0);
    Shape reached;
    if (!broadcast_shapes(source, instruction.shape, reached) || reached != instruction.shape) {
        instruction.fail("the operand is " + to_string(source));
    }
    Layout layout(instruction.shape);
    Shape aligned = aligned_right(source, instruction.shape.size());
    ggml_tensor* tensor = graph.reshaped(graph.tensor(instruction, 0), layout.extents(aligned));
    return graph.repeated(tensor, layout.extents(instruction.shape));
}

ggml_tensor* cast(GraphBuilder& graph, const Instruction& instruction) {
    if (graph.shape_of(instruction, 0) != instruction.shape) {
        instruction.fail("the operand is " + to_string(graph.shape_of(instruction, 0)));
    }
    return graph.tensor(instruction, 0);
}

// Unit dimensions are taken out first: they may be at other places in the result, and above rank 4
// ggml has no room for them.
ggml_tensor* permute(GraphBuilder& graph, const Instruction& instruction) {
    const Shape& source = graph.shape_of(instruction, 0);
    std::vector<size_t> order = permutation(instruction, source);
    Shape permuted;
    for (size_t dimension : order) {
        permuted.push_back(source[dimension]);
    }
    if (permuted != instruction.shape) {
        instruction.fail("the result is " + to_string(permuted));
    }
    bool keep_units = source.size() <= 4;
    std::vector<size_t> kept;
    Shape core;
    for (size_t k = 0; k < source.size(); k++) {
        if (keep_units || source[k] != 1) {
            kept.push_back(k);
            core.push_back(source[k]);
        }
    }
    ggml_tensor* tensor = graph.reshaped(graph.tensor(instruction, 0), ggml_extents(core));
    int rank = static_cast<int>(core.size());
    int target_axis[4] = {0, 1, 2, 3};
    int position = 0;
    for (size_t dimension : order) {
        auto found = std::find(kept.begin(), kept.end(), dimension);
        if (found != kept.end()) {
            int from = static_cast<int>(found - kept.begin());
            target_axis[rank - 1 - from] = rank - 1 - position++;
        }
    }
    ggml_tensor* result = ggml_permute(graph.ggml, tensor, target_axis[0], target_axis[1],
                                       target_axis[2], target_axis[3]);
    return graph.reshaped(result, ggml_extents(instruction.shape));
}

ggml_tensor* view_along(ggml_context* ggml, ggml_tensor* tensor, int axis, const Range& range) {
    GgmlShape extents;
    std::copy_n(tensor->ne, 4, extents.begin());
    extents[axis] = range.count;
    size_t strides[4] = {tensor->nb[0], tensor->nb[1], tensor->nb[2], tensor->nb[3]};
    size_t offset = range.start * strides[axis];
    strides[axis] *= range.step;
    return ggml_view_4d(ggml, tensor, extents[0], extents[1], extents[2], extents[3], strides[1],
                        strides[2], strides[3], offset);
}

ggml_tensor* slice(GraphBuilder& graph, const Instruction& instruction) {
    const Shape& source = graph.shape_of(instruction, 0);
    size_t dimension = instruction.dimension("dim", source.size());
    Range range = slice_range(instruction, source[dimension]);
    Shape expected = source;
    expected[dimension] = range.count;
    if (expected != instruction.shape) {
        instruction.fail("the slice of " + to_string(source) + " is " + to_string(expected));
    }
    ggml_tensor* tensor = graph.contiguous_rows(graph.tensor(instruction, 0));
    int axis = Layout(source).axis(dimension);
    if (axis < 0 || range.count == source[dimension]) {
        return tensor;
    }
    ggml_tensor* view = nullptr;
    if (axis == 0 && range.step > 1) {
        // A view's rows are always dense: step along the second axis instead.
        ggml_tensor* turned = graph.contiguous(ggml_permute(graph.ggml, tensor, 1, 0, 2, 3));
        view = ggml_permute(graph.ggml, view_along(graph.ggml, turned, 1, range), 1, 0, 2, 3);
    } else {
        view = view_along(graph.ggml, tensor, axis, range);
    }
    return graph.reshaped(view, ggml_extents(instruction.shape));
}

ggml_tensor* concat(GraphBuilder& graph, const Instruction& instruction) {
    size_t dimension = instruction.dimension("dim", instruction.shape.size());
    Layout layout(instruction.shape);
    int axis = layout.axis(dimension);
    int64_t total = 0;
    for (size_t k = 0; k < instruction.operands.size(); k++) {
        const Shape& part = graph.shape_of(instruction, k);
        total += dimension < part.size() ? part[dimension] : 0;
    }
    if (total != instruction.shape[dimension]) {
        instruction.fail("the parts add up to " + std::to_string(total));
    }
    ggml_tensor* result = nullptr;
    for (size_t k = 0; k < instruction.operands.size(); k++) {
        const Shape& part = graph.shape_of(instruction, k);
        Shape expected = instruction.shape;
        if (part.size() == expected.size()) {
            expected[dimension] = part[dimension];
        }
        if (part != expected) {
            instruction.fail("the operand " + instruction.operands[k] + " is " + to_string(part));
        }
        ggml_tensor* tensor = graph.reshaped(graph.tensor(instruction, k), layout.extents(part));
        result = result == nullptr ? tensor : ggml_concat(graph.ggml, result, tensor, axis);
    }
    return result;
}

// What lies outside the operand in the padded result, and 0 inside.
ggml_tensor* border(GraphBuilder& graph, const Shape& shape, const Shape& pads, float value) {
    graph.check_constant(shape);
    std::vector<float> data(element_count(shape));
    IndexWalk walk(shape);
    for (float& element : data) {
        bool is_inside = true;
        for (size_t k = 0; k < shape.size(); k++) {
            int64_t at = walk.at()[k];
            is_inside = is_inside && at >= pads[2 * k] && at < shape[k] - pads[2 * k + 1];
        }
        element = is_inside ? 0.0f : value;
        walk.advance();
    }
    return graph.constant(std::move(data), shape);
}

ggml_tensor* pad(GraphBuilder& graph, const Instruction& instruction) {
    const Shape& source = graph.shape_of(instruction, 0);
    Shape pads = instruction.integers("pads");
    if (pads.size() != 2 * source.size() || instruction.shape.size() != source.size()) {
        instruction.fail("pads has " + std::to_string(pads.size()) + " numbers for " +
                         to_string(source));
    }
    Layout layout(source);
    int before[4] = {};
    int after[4] = {};
    for (size_t k = 0; k < source.size(); k++) {
        int axis = layout.axis(k);
        bool is_padded = pads[2 * k] != 0 || pads[2 * k + 1] != 0;
        if (pads[2 * k] < 0 || pads[2 * k] > instruction.shape[k] || pads[2 * k + 1] < 0 ||
            pads[2 * k + 1] > instruction.shape[k] || (is_padded && axis < 0) ||
            source[k] + pads[2 * k] + pads[2 * k + 1] != instruction.shape[k]) {
            instruction.fail("pads=" + to_string(pads) + " does not fit the operand " +
                             to_string(source));
        }
        if (is_padded) {
            before[axis] = static_cast<int>(pads[2 * k]);
            after[axis] = static_cast<int>(pads[2 * k + 1]);
        }
    }
    ggml_tensor* x = graph.contiguous(graph.tensor(instruction, 0));
    x = ggml_pad_ext(graph.ggml, x, before[0], after[0], before[1], after[1], before[2], after[2],
                     before[3], after[3]);
    double value = instruction.number("value");
    if (value != 0) {
        x = ggml_add(graph.ggml, graph.reshaped(x, ggml_extents(instruction.shape)),
                     border(graph, instruction.shape, pads, static_cast<float>(value)));
    }
    return x;
}

} // namespace

void add_layout_operators(std::map<std::string, DeviceOperator>& table) {
    table["reshape"] = {{1, 1}, reshape};
    table["expand"] = {{1, 1}, expand};
    table["cast"] = {{1, 1}, cast};
    table["permute"] = {{1, 1, {"perm"}}, permute};
    table["slice"] = {{1, 1, {"dim", "start"}}, slice};
    table["pad"] = {{1, 1, {"pads", "value"}}, pad};
    table["concat"] = {{1, any_number, {"dim"}}, concat};
}

} // namespace actquant
