// Convolutions, as products of a weight matrix [out, in·kernel] with unfolded inputs. Those of one
// dimension are convolutions of images of height 1.
#include "common/limits.h"
#include "graph/graph_builder.h"
#include "operators/operators.h"

#include <algorithm>

namespace actquant {
namespace {

struct Convolution {
    // [batch, channels, height, width] and [out, in of a group, height, width].
    Shape x, weight;
    Shape stride, padding, dilation; // [height, width]
    int64_t groups = 1;

    int64_t window() const { return weight[1] * weight[2] * weight[3]; }
};

constexpr int64_t most = limits::window;

bool is_valid(const Convolution& conv) {
    bool fits = conv.x.size() == 4 && conv.weight.size() == 4 && conv.stride.size() == 2 &&
                conv.padding.size() == 2 && conv.dilation.size() == 2 && conv.groups >= 1;
    return fits && conv.x[1] == conv.weight[1] * conv.groups && conv.weight[0] % conv.groups == 0;
}

// [batch, out, height, width], or nothing where the window does not fit.
Shape result_shape(const Convolution& conv) {
    if (!is_valid(conv)) {
        return {};
    }
    Shape result = {conv.x[0], conv.weight[0]};
    for (int k = 0; k < 2; k++) {
        int64_t reach = conv.dilation[k] * (conv.weight[2 + k] - 1) + 1;
        int64_t room = conv.x[2 + k] + 2 * conv.padding[k] - reach;
        if (conv.weight[2 + k] > most || room < 0) {
            return {};
        }
        result.push_back(room / conv.stride[k] + 1);
    }
    return result;
}

int64_t group_count(const Instruction& instruction) {
    return instruction.has("groups") ? instruction.integer("groups", 1, most) : 1;
}

// The weight as a matrix, in the file's own type. Those of a grouped convolution are a batch of
// matrices and have no padded rows.
ggml_tensor* weight_matrix(GraphBuilder& graph, const Instruction& instruction,
                           const Convolution& conv) {
    int64_t out = conv.weight[0];
    if (conv.groups > 1 || !is_file_tensor(instruction.operands[1])) {
        return graph.contiguous(graph.reshaped(graph.tensor(instruction, 1),
                                               {conv.window(), out / conv.groups, conv.groups, 1}));
    }
    ggml_tensor* stored = graph.weight(instruction, 1).tensor;
    if (graph.dtype_of(instruction, 1) != DType::f32) {
        instruction.fail("the weight holds integers");
    }
    return graph.reshaped(stored, {ggml_nelements(stored) / out, out, 1, 1});
}

// [window, pixels, groups, batch]
ggml_tensor* unfolded(GraphBuilder& graph, const Convolution& conv, ggml_tensor* x,
                      int64_t pixels) {
    // im2col takes no more than the window's extents from its kernel.
    ggml_tensor* kernel = ggml_new_tensor_4d(graph.ggml, GGML_TYPE_I8, conv.weight[3],
                                             conv.weight[2], conv.weight[1], 1);
    x = graph.contiguous(
        graph.reshaped(x, {conv.x[3], conv.x[2], conv.weight[1], conv.groups * conv.x[0]}));
    auto of = [](const Shape& pair, int k) { return static_cast<int>(pair[k]); };
    ggml_tensor* windows = ggml_im2col(
        graph.ggml, kernel, x, of(conv.stride, 1), of(conv.stride, 0), of(conv.padding, 1),
        of(conv.padding, 0), of(conv.dilation, 1), of(conv.dilation, 0), true, GGML_TYPE_F32);
    return graph.reshaped(windows, {conv.window(), pixels, conv.groups, conv.x[0]});
}

// ggml_conv_2d rounds the activations to f16; im2col in f32 and a product do not.
ggml_tensor* convolve(GraphBuilder& graph, const Instruction& instruction,
                      const Convolution& conv) {
    Shape result = result_shape(conv);
    Shape expected = result;
    if (instruction.op == "conv1d" && !result.empty()) {
        expected.erase(expected.begin() + 2);
    }
    if (result.empty() || expected != instruction.shape) {
        instruction.fail("the input is " + to_string(graph.shape_of(instruction, 0)) +
                         ", the weight " + to_string(graph.shape_of(instruction, 1)));
    }
    int64_t pixels = result[2] * result[3];
    int64_t group_out = result[1] / conv.groups;
    graph.check_size({conv.window(), pixels, conv.groups, conv.x[0]});
    ggml_tensor* weight = weight_matrix(graph, instruction, conv);
    ggml_tensor* windows = unfolded(graph, conv, graph.tensor(instruction, 0), pixels);
    int64_t padding = weight->ne[0] - conv.window();
    if (padding > 0) {
        windows = ggml_pad(graph.ggml, windows, static_cast<int>(padding), 0, 0, 0);
    }
    if (conv.groups == 1) {
        // One product for the whole batch.
        windows = graph.reshaped(windows, {weight->ne[0], pixels * result[0], 1, 1});
    }
    ggml_tensor* y = graph.product(weight, windows);
    y = graph.reshaped(y, {group_out, pixels, conv.groups, result[0]});
    if (instruction.operands.size() > 2) {
        if (element_count(graph.shape_of(instruction, 2)) != result[1]) {
            instruction.fail("the bias is " + to_string(graph.shape_of(instruction, 2)));
        }
        ggml_tensor* bias = graph.tensor(instruction, 2);
        y = ggml_add(graph.ggml, y, graph.reshaped(bias, {group_out, 1, conv.groups, 1}));
    }
    return graph.reshaped(ggml_transpose(graph.ggml, y), ggml_extents(instruction.shape));
}

ggml_tensor* conv2d(GraphBuilder& graph, const Instruction& instruction) {
    return convolve(graph, instruction,
                    {graph.shape_of(instruction, 0), graph.shape_of(instruction, 1),
                     instruction.pair("stride", 1, most), instruction.pair("pad", 0, most),
                     instruction.pair("dil", 1, most), group_count(instruction)});
}

// [a, b, c] -> [a, b, 1, c]
Shape with_unit_height(Shape shape) {
    if (shape.size() == 3) {
        shape.insert(shape.begin() + 2, 1);
    }
    return shape;
}

ggml_tensor* conv1d(GraphBuilder& graph, const Instruction& instruction) {
    const Shape& x = graph.shape_of(instruction, 0);
    const Shape& weight = graph.shape_of(instruction, 1);
    if (x.size() != 3 || weight.size() != 3) {
        instruction.fail("the input is " + to_string(x) + ", the weight " + to_string(weight));
    }
    return convolve(graph, instruction,
                    {with_unit_height(x),
                     with_unit_height(weight),
                     {1, instruction.integer("stride", 1, most)},
                     {0, instruction.integer("pad", 0, most)},
                     {1, instruction.integer("dil", 1, most)},
                     group_count(instruction)});
}

// Adds up windows [kernel·channels, time, batch] that overlap by all but `stride`, into [length,
// channels, batch]: length = (time - 1)·stride + kernel. The extents tell both.
void overlap_add(ggml_tensor* result, int thread, int threads, void*) {
    const ggml_tensor* windows = result->src[0];
    int64_t length = result->ne[0];
    int64_t channels = result->ne[1];
    int64_t time = windows->ne[1];
    int64_t kernel = windows->ne[0] / channels;
    int64_t stride = time > 1 ? (length - kernel) / (time - 1) : 1;
    const float* in = static_cast<const float*>(windows->data);
    float* out = static_cast<float*>(result->data);
    for (int64_t row = thread; row < channels * result->ne[2]; row += threads) {
        const float* source = in + (row / channels * time * channels + row % channels) * kernel;
        float* target = out + row * length;
        std::fill_n(target, length, 0.0f);
        for (int64_t t = 0; t < time; t++) {
            for (int64_t k = 0; k < kernel; k++) {
                target[t * stride + k] += source[t * channels * kernel + k];
            }
        }
    }
}

struct Transposed {
    int64_t batch, in, out, time, kernel, stride, padding, length;
};

Transposed transposed_convolution(const GraphBuilder& graph, const Instruction& instruction) {
    const Shape& x = graph.shape_of(instruction, 0);
    const Shape& w = graph.shape_of(instruction, 1);
    int64_t stride = instruction.integer("stride", 1, most);
    int64_t padding = instruction.integer("pad", 0, most);
    int64_t extra = instruction.integer("output_pad", 0, most);
    bool fits = x.size() == 3 && w.size() == 3 && x[1] == w[0] && (extra == 0 || extra < stride);
    int64_t length = fits ? (x[2] - 1) * stride - 2 * padding + w[2] + extra : 0;
    if (length < 1 || instruction.shape != Shape({x[0], w[1], length})) {
        instruction.fail("the input is " + to_string(x) + ", the weight " + to_string(w));
    }
    return {x[0], x[1], w[1], x[2], w[2], stride, padding, length};
}

ggml_tensor* conv_transpose1d(GraphBuilder& graph, const Instruction& instruction) {
    Transposed conv = transposed_convolution(graph, instruction);
    graph.check_size({conv.batch, conv.time, conv.kernel, conv.out});
    graph.check_size({conv.batch, conv.out, (conv.time - 1) * conv.stride + conv.kernel});
    ggml_tensor* weight = graph.contiguous(
        graph.reshaped(graph.tensor(instruction, 1), {conv.kernel * conv.out, conv.in, 1, 1}));
    ggml_tensor* x = graph.contiguous(
        graph.reshaped(graph.tensor(instruction, 0), {conv.time, conv.in, conv.batch, 1}));
    ggml_tensor* windows = ggml_out_prod(graph.ggml, weight, x);
    int64_t whole = (conv.time - 1) * conv.stride + conv.kernel;
    ggml_tensor* y = nullptr;
    if (graph.on_device && conv.batch == 1) {
        y = ggml_col2im_1d(graph.ggml, windows, static_cast<int>(conv.stride),
                           static_cast<int>(conv.out), 0);
    } else {
        y = ggml_custom_4d(graph.ggml, GGML_TYPE_F32, whole, conv.out, conv.batch, 1, &windows, 1,
                           overlap_add, GGML_N_TASKS_MAX, nullptr);
    }
    int64_t missing = std::max<int64_t>(conv.padding + conv.length - whole, 0);
    if (missing > 0) {
        y = ggml_pad(graph.ggml, y, static_cast<int>(missing), 0, 0, 0);
    }
    if (y->ne[0] != conv.length) {
        y = graph.contiguous(ggml_view_3d(graph.ggml, y, conv.length, conv.out, conv.batch,
                                          y->nb[1], y->nb[2], conv.padding * sizeof(float)));
    }
    if (instruction.operands.size() > 2) {
        if (element_count(graph.shape_of(instruction, 2)) != conv.out) {
            instruction.fail("the bias is " + to_string(graph.shape_of(instruction, 2)));
        }
        ggml_tensor* bias = graph.tensor(instruction, 2);
        y = ggml_add(graph.ggml, y, graph.reshaped(bias, {1, conv.out, 1, 1}));
    }
    return graph.reshaped(y, ggml_extents(instruction.shape));
}

} // namespace

void add_convolution_operators(std::map<std::string, DeviceOperator>& table) {
    table["conv2d"] = {{2, 3, {"stride", "pad", "dil"}}, conv2d};
    table["conv1d"] = {{2, 3, {"stride", "pad", "dil"}}, conv1d};
    table["conv_transpose1d"] = {{2, 3, {"stride", "pad", "output_pad"}}, conv_transpose1d};
}

} // namespace actquant
