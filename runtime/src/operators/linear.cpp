// Operators that multiply by weights.
#include "graph/graph_builder.h"
#include "operators/operators.h"
#include "operators/product_nodes.h"

namespace actquant {
namespace {

// A bias along the last dimension.
ggml_tensor* bias_of(GraphBuilder& graph, const Instruction& instruction, size_t operand,
                     int64_t width) {
    if (element_count(graph.shape_of(instruction, operand)) != width) {
        instruction.fail("the bias is " + to_string(graph.shape_of(instruction, operand)));
    }
    return graph.contiguous(graph.reshaped(graph.tensor(instruction, operand), {width, 1, 1, 1}));
}

ggml_tensor* linear(GraphBuilder& graph, const Instruction& instruction) {
    const Weight& weight = graph.weight(instruction, 1);
    const Shape& source = graph.shape_of(instruction, 0);
    if (weight.shape.size() != 2 || source.empty() || source.back() != weight.shape[1]) {
        instruction.fail("the input is " + to_string(source) + ", the weight " +
                         to_string(weight.shape));
    }
    if (graph.dtype_of(instruction, 1) != DType::f32) {
        instruction.fail("the weight holds integers");
    }
    Shape expected = source;
    expected.back() = weight.shape[0];
    if (expected != instruction.shape) {
        instruction.fail("the result is " + to_string(expected));
    }
    int64_t width = source.back();
    int64_t rows = element_count(source) / width;
    // One matrix of all rows: ggml multiplies it faster than a batch of small ones.
    ggml_tensor* x =
        graph.contiguous(graph.reshaped(graph.tensor(instruction, 0), {width, rows, 1, 1}));
    ggml_tensor* bias =
        instruction.operands.size() > 2 ? bias_of(graph, instruction, 2, weight.shape[0]) : nullptr;
    ggml_tensor* y = product_nodes(graph, weight.tensor, x, bias);
    return graph.reshaped(y, ggml_extents(instruction.shape));
}

ggml_tensor* matmul(GraphBuilder& graph, const Instruction& instruction) {
    const Shape& a = graph.shape_of(instruction, 0);
    const Shape& b = graph.shape_of(instruction, 1);
    if (a.size() < 2 || b.size() < 2 || a.back() != b[b.size() - 2]) {
        instruction.fail("the operands are " + to_string(a) + " and " + to_string(b));
    }
    Shape batch;
    bool fits =
        broadcast_shapes(Shape(a.begin(), a.end() - 2), Shape(b.begin(), b.end() - 2), batch);
    Shape expected = batch;
    expected.insert(expected.end(), {a[a.size() - 2], b.back()});
    if (!fits || expected != instruction.shape) {
        instruction.fail("the operands are " + to_string(a) + " and " + to_string(b));
    }
    // The batch as at most two of ggml's dimensions, the same for both operands.
    Layout layout(expected);
    Shape a_aligned = aligned_right(a, expected.size());
    Shape b_aligned = aligned_right(b, expected.size());
    if (layout.axis(expected.size() - 1) != 0 || layout.axis(expected.size() - 2) != 1) {
        instruction.fail("above rank 4 the matrices may not be single rows");
    }
    ggml_tensor* left = graph.reshaped(graph.tensor(instruction, 0), layout.extents(a_aligned));
    ggml_tensor* right = graph.reshaped(graph.tensor(instruction, 1), layout.extents(b_aligned));
    GgmlShape left_extents = layout.extents(expected);
    left_extents[0] = a.back();
    graph.check_size({left_extents[3], left_extents[2], left_extents[1], left_extents[0]});
    left = graph.repeated(graph.contiguous_rows(left), left_extents);
    // ggml's mul_mat(p, q) is q·pᵀ and broadcasts p over the batch.
    ggml_tensor* transposed = ggml_cont(graph.ggml, ggml_transpose(graph.ggml, right));
    return graph.product(transposed, left);
}

ggml_tensor* embedding(GraphBuilder& graph, const Instruction& instruction) {
    const Weight& table = graph.weight(instruction, 0);
    Shape expected = graph.shape_of(instruction, 1);
    if (table.shape.size() != 2 || table.shape[0] > INT32_MAX) {
        instruction.fail("the table is " + to_string(table.shape));
    }
    if (graph.dtype_of(instruction, 0) != DType::f32) {
        instruction.fail("the table holds integers");
    }
    expected.push_back(table.shape[1]);
    if (expected != instruction.shape) {
        instruction.fail("the result is " + to_string(expected));
    }
    ggml_tensor* ids = graph.indices(instruction, 1, table.shape[0]);
    graph.check_size({ids->ne[0], table.tensor->ne[0]});
    ggml_tensor* rows = ggml_get_rows(graph.ggml, table.tensor, ids);
    if (rows->ne[0] != table.shape[1]) {
        rows = ggml_view_2d(graph.ggml, rows, table.shape[1], rows->ne[1], rows->nb[1], 0);
    }
    return graph.reshaped(rows, ggml_extents(instruction.shape));
}

} // namespace

void add_linear_operators(std::map<std::string, DeviceOperator>& table) {
    table["linear"] = {{2, 3}, linear};
    table["matmul"] = {{2, 2}, matmul};
    table["embedding"] = {{2, 2}, embedding};
}

} // namespace actquant
