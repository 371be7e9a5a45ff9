#include "graph/graph_builder.h"

#include "common/error.h"
#include "common/limits.h"
#include "operators/operators.h"

#include <algorithm>

namespace actquant {
namespace {

ggml_tensor* new_tensor(ggml_context* ggml, ggml_type type, const GgmlShape& extents) {
    return ggml_new_tensor(ggml, type, 4, extents.data());
}

bool has_extents(const ggml_tensor* tensor, const GgmlShape& extents) {
    return std::equal(extents.begin(), extents.end(), tensor->ne);
}

} // namespace

void GraphBuilder::count_uses(const Program& program) {
    for (const Instruction& instruction : program.instructions) {
        made_by[instruction.result] = instruction.op;
        for (const std::string& operand : instruction.operands) {
            uses[operand]++;
        }
    }
    for (const ProgramOutput& output : program.outputs) {
        uses[output.value]++;
    }
}

bool GraphBuilder::is_only_reader(const Instruction& instruction, size_t operand,
                                  const std::string& op) const {
    const std::string& value = instruction.operands.at(operand);
    auto maker = made_by.find(value);
    return maker != made_by.end() && maker->second == op && uses.at(value) == 1;
}

ggml_tensor*& GraphBuilder::derived(const ggml_tensor* x, const void* kernel) {
    const ggml_tensor* owner = x->view_src == nullptr ? x : x->view_src;
    return derived_tensors[{owner, x->view_offs, x->ne[0], x->ne[1], kernel}];
}

GgmlShape ggml_extents(const Shape& shape) {
    return Layout(shape).extents(shape);
}

std::string to_string(const GgmlShape& extents) {
    return to_string(Shape(extents.rbegin(), extents.rend()));
}

void GraphBuilder::define_host(const std::string& value, DType dtype, const Shape& shape) {
    host_values[value] = {dtype, shape};
}

void GraphBuilder::define_device(const std::string& value, const Shape& shape,
                                 ggml_tensor* tensor) {
    device_values[value] = tensor;
    device_shapes[value] = shape;
}

void GraphBuilder::build(const Instruction& instruction) {
    if (!Layout(instruction.shape).fits()) {
        instruction.fail("the rank is above 4 after unit dimensions are dropped");
    }
    if (instruction.dtype != DType::f32) {
        instruction.fail("device operators give f32");
    }
    check_operands(instruction);
    current = &instruction;
    ggml_tensor* result = device_operators().at(instruction.op).build(*this, instruction);
    current = nullptr;
    if (!has_extents(result, ggml_extents(instruction.shape))) {
        GgmlShape extents;
        std::copy_n(result->ne, 4, extents.begin());
        instruction.fail("the result is " + to_string(extents) + ", the program declares " +
                         to_string(instruction.shape));
    }
    define_device(instruction.result, instruction.shape, result);
}

void GraphBuilder::check_operands(const Instruction& instruction) const {
    for (size_t k = 0; k < instruction.operands.size(); k++) {
        const Shape& shape = shape_of(instruction, k);
        if (!Layout(shape).fits()) {
            instruction.fail("the operand " + instruction.operands[k] + " " + to_string(shape) +
                             " has a rank above 4");
        }
    }
}

void GraphBuilder::fail(const std::string& problem) const {
    if (current != nullptr) {
        current->fail(problem);
    }
    throw FileError(problem);
}

void GraphBuilder::check_size(std::initializer_list<int64_t> extents) const {
    std::string problem = what_is_wrong(Shape(extents), limits::value_elements);
    if (!problem.empty()) {
        fail("what it needs in between is too large: " + problem);
    }
}

const Shape& GraphBuilder::shape_of(const Instruction& instruction, size_t operand) const {
    const std::string& value = instruction.operands.at(operand);
    if (is_file_tensor(value)) {
        return weight(instruction, operand).shape;
    }
    auto on_device = device_shapes.find(value);
    return on_device != device_shapes.end() ? on_device->second : host_values.at(value).shape;
}

DType GraphBuilder::dtype_of(const Instruction& instruction, size_t operand) const {
    const std::string& value = instruction.operands.at(operand);
    if (is_file_tensor(value)) {
        return value_dtype(weight(instruction, operand).tensor->type);
    }
    return is_on_device(value) ? DType::f32 : host_values.at(value).dtype;
}

const Weight& GraphBuilder::weight(const Instruction& instruction, size_t operand) const {
    const std::string& value = instruction.operands.at(operand);
    if (!is_file_tensor(value)) {
        instruction.fail("the operand " + value + " must be a tensor of the file");
    }
    const Weight* found = weights.find(value.substr(1));
    if (found == nullptr) {
        instruction.fail("the file has no tensor " + value.substr(1));
    }
    return *found;
}

HostValue GraphBuilder::host_constant(const Instruction& instruction, size_t operand) const {
    weight(instruction, operand); // refuses an operand that is no tensor of the file
    return weights.read(instruction.operands.at(operand).substr(1));
}

ggml_tensor* GraphBuilder::tensor(const Instruction& instruction, size_t operand) {
    const std::string& value = instruction.operands.at(operand);
    auto on_device = device_values.find(value);
    if (on_device != device_values.end()) {
        return on_device->second;
    }
    const Shape& shape = shape_of(instruction, operand);
    ggml_tensor* tensor = nullptr;
    if (is_file_tensor(value) && dtype_of(instruction, operand) == DType::f32) {
        if (ggml_nelements(weight(instruction, operand).tensor) != element_count(shape)) {
            instruction.fail("the operand " + value +
                             " has padded rows, which only linear and "
                             "embedding can read");
        }
        tensor = file_values(value);
    } else {
        tensor = boundary({value, Role::values, nullptr, shape}, GGML_TYPE_F32);
    }
    return tensor;
}

// Weights kept in f16 are widened once, here, where an operator needs f32.
ggml_tensor* GraphBuilder::file_values(const std::string& value) {
    const Weight& found = *weights.find(value.substr(1));
    ggml_tensor* tensor = found.tensor;
    if (tensor->type != GGML_TYPE_F32) {
        check_constant(found.shape);
        HostValue wide = weights.read(value.substr(1));
        tensor = constant({wide.data.begin(), wide.data.end()}, found.shape);
    }
    tensor = reshaped(tensor, ggml_extents(found.shape));
    define_device(value, found.shape, tensor);
    return tensor;
}

ggml_tensor* GraphBuilder::indices(const Instruction& instruction, size_t operand, int64_t limit) {
    const std::string& value = instruction.operands.at(operand);
    if (is_on_device(value)) {
        instruction.fail("the operand " + value + " must be computed on the host");
    }
    Shape flat = {element_count(shape_of(instruction, operand))};
    limit = std::min<int64_t>(limit, INT32_MAX);
    return boundary({value, Role::indices, nullptr, flat, limit}, GGML_TYPE_I32);
}

ggml_tensor* GraphBuilder::mask(const Instruction& instruction, size_t operand, const Shape& shape,
                                bool causal) {
    const std::string& value = instruction.operands.at(operand);
    Shape reached;
    const Shape& own = shape_of(instruction, operand);
    if (!broadcast_shapes(own, shape, reached) || reached != shape) {
        instruction.fail("the mask " + to_string(own) + " does not broadcast to " +
                         to_string(shape));
    }
    if (!is_on_device(value)) {
        return boundary({value, Role::mask, nullptr, shape, 0, causal}, GGML_TYPE_F32);
    }
    if (causal) {
        instruction.fail("a mask that is computed on the device cannot be causal too");
    }
    // -inf would turn a fully masked row into NaN. ggml clamps in place.
    ggml_tensor* finite = ggml_clamp(ggml, ggml_cont(ggml, device_values.at(value)), -1e30f, 1e30f);
    ggml_tensor* aligned = reshaped(finite, ggml_extents(aligned_right(own, 4)));
    return contiguous(repeated(aligned, ggml_extents(shape)));
}

ggml_tensor* GraphBuilder::boundary(const Boundary& wanted, ggml_type type) {
    for (const Boundary& known : boundary_list) {
        if (known.value == wanted.value && known.role == wanted.role &&
            known.shape == wanted.shape && known.limit == wanted.limit &&
            known.causal == wanted.causal) {
            return known.tensor;
        }
    }
    boundary_list.push_back(wanted);
    boundary_list.back().tensor = new_input(wanted.shape, type);
    return boundary_list.back().tensor;
}

void GraphBuilder::check_constant(const Shape& shape) const {
    if (element_count(shape) > limits::host_elements - constant_elements) {
        fail("the stage's constants have more than " + std::to_string(limits::host_elements) +
             " elements together");
    }
}

ggml_tensor* GraphBuilder::constant(std::vector<float> data, const Shape& shape) {
    for (const Constant& known : constant_list) {
        if (known.data == data && has_extents(known.tensor, ggml_extents(shape))) {
            return known.tensor;
        }
    }
    check_constant(shape);
    constant_elements += element_count(shape);
    constant_list.push_back({new_input(shape), std::move(data)});
    return constant_list.back().tensor;
}

// Marked as an output too: its memory is then never reused, and it need not be written again when
// the graph runs again.
ggml_tensor* GraphBuilder::new_input(const Shape& shape, ggml_type type) {
    if (std::string problem = what_is_wrong(shape, limits::value_elements); !problem.empty()) {
        fail(problem);
    }
    ggml_tensor* tensor = new_tensor(ggml, type, ggml_extents(shape));
    ggml_set_output(tensor);
    if (!on_device) {
        ggml_set_input(tensor); // which a scheduler would keep with the processor
    }
    return tensor;
}

ggml_tensor* GraphBuilder::product(ggml_tensor* weight, ggml_tensor* x) {
    if (on_device) {
        // Vulkan makes what is strided contiguous as well, but in f16.
        weight = contiguous(weight);
        x = contiguous(x);
    }
    ggml_tensor* y = ggml_mul_mat(ggml, weight, x);
    ggml_prec_set_acc(y, GGML_PREC_F32);
    return y;
}

ggml_tensor* GraphBuilder::contiguous(ggml_tensor* tensor) {
    return ggml_is_contiguous(tensor) ? tensor : ggml_cont(ggml, tensor);
}

ggml_tensor* GraphBuilder::contiguous_rows(ggml_tensor* tensor) {
    return tensor->nb[0] == ggml_type_size(tensor->type) ? tensor : ggml_cont(ggml, tensor);
}

ggml_tensor* GraphBuilder::reshaped(ggml_tensor* tensor, const GgmlShape& extents) {
    if (has_extents(tensor, extents)) {
        return tensor;
    }
    if (element_count({extents.begin(), extents.end()}) != ggml_nelements(tensor)) {
        fail("a value of " + std::to_string(ggml_nelements(tensor)) + " elements is no " +
             to_string(extents));
    }
    return ggml_reshape_4d(ggml, contiguous(tensor), extents[0], extents[1], extents[2],
                           extents[3]);
}

ggml_tensor* GraphBuilder::repeated(ggml_tensor* tensor, const GgmlShape& extents) {
    if (has_extents(tensor, extents)) {
        return tensor;
    }
    check_size({extents[3], extents[2], extents[1], extents[0]});
    return ggml_repeat_4d(ggml, contiguous_rows(tensor), extents[0], extents[1], extents[2],
                          extents[3]);
}

} // namespace actquant
