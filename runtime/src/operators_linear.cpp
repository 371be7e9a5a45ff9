// Operators that multiply by weights.
#include "graph_builder.h"

namespace actquant {
namespace {

// Adds a bias along the last dimension.
ggml_tensor* add_bias(GraphBuilder& graph, const Instruction& instruction, ggml_tensor* x,
                      size_t operand, int64_t width) {
    if (element_count(graph.shape_of(instruction, operand)) != width) {
        instruction.fail("the bias is " + to_string(graph.shape_of(instruction, operand)));
    }
    ggml_tensor* bias = graph.reshaped(graph.tensor(instruction, operand), {width, 1, 1, 1});
    return ggml_add(graph.ggml, x, bias);
}

ggml_tensor* linear(GraphBuilder& graph, const Instruction& instruction) {
    const FileTensor& weight = graph.stored(instruction, 1);
    const Shape& source = graph.shape_of(instruction, 0);
    if (weight.shape.size() != 2 || source.empty() || source.back() != weight.shape[1]) {
        instruction.fail("the input is " + to_string(source) + ", the weight " +
                         to_string(weight.shape));
    }
    if (weight.tensor->type == GGML_TYPE_I8 || weight.tensor->type == GGML_TYPE_I64) {
        instruction.fail("the weight holds integers");
    }
    int64_t width = source.back();
    int64_t rows = element_count(source) / width;
    // One matrix of all rows: ggml multiplies it faster than a batch of small ones.
    ggml_tensor* x =
        graph.contiguous(graph.reshaped(graph.tensor(instruction, 0), {width, rows, 1, 1}));
    int64_t padding = weight.tensor->ne[0] - width;
    if (padding > 0) {
        x = ggml_pad(graph.ggml, x, static_cast<int>(padding), 0, 0, 0);
    }
    ggml_tensor* y = ggml_mul_mat(graph.ggml, weight.tensor, x);
    if (instruction.operands.size() > 2) {
        y = add_bias(graph, instruction, y, 2, weight.shape[0]);
    }
    Shape expected = source;
    expected.back() = weight.shape[0];
    if (expected != instruction.shape) {
        instruction.fail("the result is " + to_string(expected));
    }
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
    left = graph.repeated(graph.contiguous_rows(left), left_extents);
    // ggml's mul_mat(p, q) is q·pᵀ and broadcasts p over the batch.
    ggml_tensor* transposed = ggml_cont(graph.ggml, ggml_transpose(graph.ggml, right));
    return ggml_mul_mat(graph.ggml, transposed, left);
}

ggml_tensor* embedding(GraphBuilder& graph, const Instruction& instruction) {
    const FileTensor& table = graph.stored(instruction, 0);
    Shape expected = graph.shape_of(instruction, 1);
    if (table.shape.size() != 2) {
        instruction.fail("the table is " + to_string(table.shape));
    }
    expected.push_back(table.shape[1]);
    if (expected != instruction.shape) {
        instruction.fail("the result is " + to_string(expected));
    }
    ggml_tensor* ids = graph.indices(instruction, 1, table.shape[0]);
    ggml_tensor* rows = ggml_get_rows(graph.ggml, table.tensor, ids);
    if (rows->ne[0] != table.shape[1]) {
        rows = ggml_view_2d(graph.ggml, rows, table.shape[1], rows->ne[1], rows->nb[1], 0);
    }
    return graph.reshaped(rows, ggml_extents(instruction.shape));
}

struct Convolution {
    int stride[2], padding[2], dilation[2]; // [height, width]
    int64_t groups;
};

Convolution convolution(const Instruction& instruction) {
    Convolution result = {};
    auto read = [&](const char* key, int* values) {
        Shape list = instruction.integers(key);
        if (list.size() != 2) {
            instruction.fail(std::string(key) + " must be [height,width]");
        }
        values[0] = static_cast<int>(list[0]);
        values[1] = static_cast<int>(list[1]);
    };
    read("stride", result.stride);
    read("pad", result.padding);
    read("dil", result.dilation);
    result.groups = instruction.has("groups") ? instruction.integer("groups") : 1;
    return result;
}

void check_convolution(const Instruction& instruction, const Shape& x, const Shape& w,
                       const Convolution& conv) {
    bool fits = x.size() == 4 && w.size() == 4 && conv.groups >= 1 && x[1] == w[1] * conv.groups &&
                w[0] % conv.groups == 0;
    Shape expected;
    if (fits) {
        expected = {x[0], w[0]};
        for (int k = 0; k < 2; k++) {
            int64_t reach = conv.dilation[k] * (w[2 + k] - 1) + 1;
            int64_t room = x[2 + k] + 2 * conv.padding[k] - reach;
            fits = fits && conv.stride[k] >= 1 && conv.dilation[k] >= 1 && room >= 0;
            expected.push_back(fits ? room / conv.stride[k] + 1 : 0);
        }
    }
    if (!fits || expected != instruction.shape) {
        instruction.fail("the input is " + to_string(x) + ", the weight " + to_string(w));
    }
}

// ggml_conv_2d rounds the activations to f16; im2col in f32 and a matrix product do not. The groups
// are a batch of products.
ggml_tensor* conv2d(GraphBuilder& graph, const Instruction& instruction) {
    const Shape& x_shape = graph.shape_of(instruction, 0);
    const Shape& w_shape = graph.shape_of(instruction, 1);
    Convolution conv = convolution(instruction);
    check_convolution(instruction, x_shape, w_shape, conv);
    int64_t batch = x_shape[0];
    int64_t groups = conv.groups;
    int64_t group_in = w_shape[1];
    int64_t group_out = w_shape[0] / groups;
    int64_t kernel = w_shape[2] * w_shape[3];
    int64_t pixels = instruction.shape[2] * instruction.shape[3];

    ggml_tensor* weight = graph.contiguous(graph.tensor(instruction, 1));
    ggml_tensor* x = graph.contiguous(graph.reshaped(
        graph.tensor(instruction, 0), {x_shape[3], x_shape[2], group_in, groups * batch}));
    ggml_tensor* patches =
        ggml_im2col(graph.ggml, weight, x, conv.stride[1], conv.stride[0], conv.padding[1],
                    conv.padding[0], conv.dilation[1], conv.dilation[0], true, GGML_TYPE_F32);
    patches = graph.reshaped(patches, {group_in * kernel, pixels, groups, batch});
    weight = graph.reshaped(weight, {group_in * kernel, group_out, groups, 1});
    weight = graph.repeated(weight, {group_in * kernel, group_out, groups, batch});
    ggml_tensor* y = ggml_mul_mat(graph.ggml, patches, weight);
    y = graph.reshaped(y, {pixels, w_shape[0], batch, 1});
    if (instruction.operands.size() > 2) {
        if (element_count(graph.shape_of(instruction, 2)) != w_shape[0]) {
            instruction.fail("the bias is " + to_string(graph.shape_of(instruction, 2)));
        }
        ggml_tensor* bias = graph.reshaped(graph.tensor(instruction, 2), {1, w_shape[0], 1, 1});
        y = ggml_add(graph.ggml, y, bias);
    }
    return graph.reshaped(y, ggml_extents(instruction.shape));
}

} // namespace

void add_linear_operators(std::map<std::string, DeviceOperator>& table) {
    table["linear"] = {{2, 3}, linear};
    table["matmul"] = {{2, 2}, matmul};
    table["embedding"] = {{2, 2}, embedding};
    table["conv2d"] = {{2, 3, {"stride", "pad", "dil"}}, conv2d};
}

} // namespace actquant
