// Arithmetic, activations and normalisations.
#include "graph/graph_builder.h"
#include "kernels/activations.h"
#include "operators/activations.h"
#include "operators/norm_nodes.h"
#include "operators/operators.h"
#include "operators/product_nodes.h"

namespace actquant {
namespace {

using GgmlUnary = ggml_tensor* (*)(ggml_context*, ggml_tensor*);
using GgmlBinary = ggml_tensor* (*)(ggml_context*, ggml_tensor*, ggml_tensor*);

void expect_same_shape(GraphBuilder& graph, const Instruction& instruction, size_t operand) {
    const Shape& shape = graph.shape_of(instruction, operand);
    if (shape != instruction.shape) {
        instruction.fail("the operand " + instruction.operands[operand] + " is " +
                         to_string(shape));
    }
}

ggml_tensor* dense_operand(GraphBuilder& graph, const Instruction& instruction, size_t operand) {
    expect_same_shape(graph, instruction, operand);
    return graph.contiguous(graph.tensor(instruction, operand));
}

DeviceOperator unary(GgmlUnary function) {
    return {{1, 1}, [function](GraphBuilder& graph, const Instruction& instruction) {
                return function(graph.ggml, dense_operand(graph, instruction, 0));
            }};
}

ggml_tensor* affine(GraphBuilder& graph, const Instruction& instruction) {
    return ggml_scale_bias(graph.ggml, dense_operand(graph, instruction, 0),
                           static_cast<float>(instruction.number("a")),
                           static_cast<float>(instruction.number("b")));
}

ggml_tensor* leaky_relu(GraphBuilder& graph, const Instruction& instruction) {
    return ggml_leaky_relu(graph.ggml, dense_operand(graph, instruction, 0),
                           static_cast<float>(instruction.number("slope")), false);
}

ggml_tensor* clamp(GraphBuilder& graph, const Instruction& instruction) {
    float least = static_cast<float>(instruction.number("min"));
    float most = static_cast<float>(instruction.number("max"));
    if (!(least <= most)) {
        instruction.fail("min=" + instruction.text("min") +
                         " is above max=" + instruction.text("max"));
    }
    // ggml clamps in place, also what others read, and weights in the mapped file.
    ggml_tensor* copy = ggml_cont(graph.ggml, dense_operand(graph, instruction, 0));
    return ggml_clamp(graph.ggml, copy, least, most);
}

ggml_tensor* mish(GraphBuilder& graph, const Instruction& instruction) {
    return mish_node(graph, dense_operand(graph, instruction, 0));
}

DeviceOperator binary(GgmlBinary function, bool commutes) {
    return {{2, 2}, [=](GraphBuilder& graph, const Instruction& instruction) {
                Shape shapes[2] = {graph.shape_of(instruction, 0), graph.shape_of(instruction, 1)};
                Shape reached;
                if (!broadcast_shapes(shapes[0], shapes[1], reached) ||
                    reached != instruction.shape) {
                    instruction.fail("the operands are " + to_string(shapes[0]) + " and " +
                                     to_string(shapes[1]));
                }
                Layout layout(instruction.shape);
                ggml_tensor* operands[2];
                for (size_t k = 0; k < 2; k++) {
                    Shape aligned = aligned_right(shapes[k], instruction.shape.size());
                    operands[k] = graph.contiguous_rows(
                        graph.reshaped(graph.tensor(instruction, k), layout.extents(aligned)));
                }
                // ggml broadcasts its second operand only.
                if (commutes && !ggml_can_repeat(operands[1], operands[0])) {
                    std::swap(operands[0], operands[1]);
                }
                operands[0] = graph.repeated(operands[0], layout.extents(instruction.shape));
                return function(graph.ggml, operands[0], operands[1]);
            }};
}

bool is_tanh_form(const Instruction& instruction) {
    const std::string& form = instruction.text("approx");
    if (form != "tanh" && form != "none") {
        instruction.fail("approx=" + form + " is neither none nor tanh");
    }
    return form == "tanh";
}

ggml_tensor* gelu(GraphBuilder& graph, const Instruction& instruction) {
    ggml_tensor* x = dense_operand(graph, instruction, 0);
    if (is_tanh_form(instruction)) {
        if (graph.is_only_reader(instruction, 0, "linear") &&
            finish_product(x, activation_kernels(graph.isa).gelu_tanh)) {
            return x;
        }
        return gelu_tanh_node(graph, x);
    }
    return ggml_gelu_erf(graph.ggml, x);
}

ggml_tensor* glu(GraphBuilder& graph, const Instruction& instruction) {
    ggml_tensor* x = dense_operand(graph, instruction, 0);
    ggml_tensor* gate = dense_operand(graph, instruction, 1);
    const std::string& activation = instruction.text("act");
    if (activation == "silu") {
        return ggml_swiglu_split(graph.ggml, x, gate);
    }
    if (activation == "gelu" && is_tanh_form(instruction)) {
        return gelu_tanh_times_node(graph, x, gate);
    }
    if (activation == "gelu") {
        return ggml_geglu_erf_split(graph.ggml, x, gate);
    }
    if (activation == "relu") {
        return ggml_mul(graph.ggml, ggml_relu(graph.ggml, x), gate);
    }
    if (activation == "sigmoid") {
        return ggml_mul(graph.ggml, ggml_sigmoid(graph.ggml, x), gate);
    }
    instruction.fail("act=" + activation + " is none of silu, gelu, relu, sigmoid");
}

// Where one of them is a product that nothing else reads, the product adds the other.
ggml_tensor* add(GraphBuilder& graph, const Instruction& instruction) {
    const Shape& shape = graph.shape_of(instruction, 0);
    for (size_t k = 0; k < 2 && shape == graph.shape_of(instruction, 1); k++) {
        if (!graph.is_only_reader(instruction, k, "linear")) {
            continue;
        }
        ggml_tensor* x = graph.tensor(instruction, k);
        if (add_to_product(x, graph.tensor(instruction, 1 - k))) {
            return x;
        }
    }
    return binary(ggml_add, true).build(graph, instruction);
}

// Multiplies by or adds an operand that broadcasts to the result.
ggml_tensor* combine(GraphBuilder& graph, const Instruction& instruction, GgmlBinary function,
                     ggml_tensor* x, size_t operand) {
    const Shape& shape = graph.shape_of(instruction, operand);
    Shape reached;
    if (!broadcast_shapes(shape, instruction.shape, reached) || reached != instruction.shape) {
        instruction.fail("the operand " + instruction.operands[operand] + " is " +
                         to_string(shape));
    }
    Shape aligned = aligned_right(shape, instruction.shape.size());
    ggml_tensor* other = graph.reshaped(graph.tensor(instruction, operand),
                                        Layout(instruction.shape).extents(aligned));
    return function(graph.ggml, x, graph.contiguous_rows(other));
}

// A scale or shift [width] of a normalisation; null where it has another shape.
ggml_tensor* row_operand(GraphBuilder& graph, const Instruction& instruction, size_t operand) {
    const Shape& shape = graph.shape_of(instruction, operand);
    if (shape.size() != 1 || instruction.shape.empty() || shape[0] != instruction.shape.back()) {
        return nullptr;
    }
    return graph.reshaped(graph.contiguous(graph.tensor(instruction, operand)),
                          {shape[0], 1, 1, 1});
}

ggml_tensor* rms_norm(GraphBuilder& graph, const Instruction& instruction) {
    expect_same_shape(graph, instruction, 0);
    bool has_weight = instruction.operands.size() > 1;
    float eps = instruction.positive("eps");
    ggml_tensor* x = graph.contiguous_rows(graph.tensor(instruction, 0));
    ggml_tensor* weight = has_weight ? row_operand(graph, instruction, 1) : nullptr;
    if (graph.isa != Isa::ggml && has_weight == (weight != nullptr)) {
        return rms_norm_node(graph, x, weight, eps);
    }
    x = ggml_rms_norm(graph.ggml, x, eps);
    return has_weight ? combine(graph, instruction, ggml_mul, x, 1) : x;
}

ggml_tensor* layer_norm(GraphBuilder& graph, const Instruction& instruction) {
    expect_same_shape(graph, instruction, 0);
    bool has_weight = instruction.integer("w", 0, 1) != 0;
    bool has_bias = instruction.integer("b", 0, 1) != 0;
    if (instruction.operands.size() != size_t(1 + has_weight + has_bias)) {
        instruction.fail("w and b do not agree with the number of operands");
    }
    size_t bias_operand = has_weight ? 2 : 1;
    float eps = instruction.positive("eps");
    ggml_tensor* x = graph.contiguous_rows(graph.tensor(instruction, 0));
    ggml_tensor* weight = has_weight ? row_operand(graph, instruction, 1) : nullptr;
    ggml_tensor* bias = has_bias ? row_operand(graph, instruction, bias_operand) : nullptr;
    if (graph.isa != Isa::ggml && has_weight == (weight != nullptr) &&
        has_bias == (bias != nullptr)) {
        return layer_norm_node(graph, x, weight, bias, eps);
    }
    x = ggml_norm(graph.ggml, x, eps);
    if (has_weight) {
        x = combine(graph, instruction, ggml_mul, x, 1);
    }
    return has_bias ? combine(graph, instruction, ggml_add, x, bias_operand) : x;
}

} // namespace

void add_elementwise_operators(std::map<std::string, DeviceOperator>& table) {
    table["silu"] = unary(ggml_silu);
    table["relu"] = unary(ggml_relu);
    table["tanh"] = unary(ggml_tanh);
    table["sigmoid"] = unary(ggml_sigmoid);
    table["exp"] = unary(ggml_exp);
    table["log"] = unary(ggml_log);
    table["sqr"] = unary(ggml_sqr);
    table["sqrt"] = unary(ggml_sqrt);
    table["sin"] = unary(ggml_sin);
    table["cos"] = unary(ggml_cos);
    table["softplus"] = unary(ggml_softplus);
    table["elu"] = unary(ggml_elu);
    table["mish"] = {{1, 1}, mish};
    table["leaky_relu"] = {{1, 1, {"slope"}}, leaky_relu};
    table["clamp"] = {{1, 1, {"min", "max"}}, clamp};
    table["add"] = {{2, 2}, add};
    table["sub"] = binary(ggml_sub, false);
    table["mul"] = binary(ggml_mul, true);
    table["div"] = binary(ggml_div, false);
    table["affine"] = {{1, 1, {"a", "b"}}, affine};
    table["gelu"] = {{1, 1, {"approx"}}, gelu};
    table["glu"] = {{2, 2, {"act"}}, glu};
    table["rms_norm"] = {{1, 2, {"eps"}}, rms_norm};
    table["layer_norm"] = {{1, 3, {"eps", "w", "b"}}, layer_norm};
}

} // namespace actquant
