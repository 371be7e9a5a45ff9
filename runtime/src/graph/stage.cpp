#include "graph/stage.h"

#include "backend/ggml_guard.h"
#include "common/limits.h"
#include "graph/operator_cost.h"
#include "operators/operators.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace actquant {
namespace {

// Generous: no operator appends more nodes than this, and as many for each of its operands.
constexpr size_t nodes_per_instruction = 16;
constexpr size_t nodes_per_operand = 4;

std::vector<double> widen(const ArrayView& array) {
    int64_t count = element_count(array.shape);
    switch (array.dtype) {
    case DType::f32: {
        const float* data = static_cast<const float*>(array.data);
        return std::vector<double>(data, data + count);
    }
    case DType::i64: {
        const int64_t* data = static_cast<const int64_t*>(array.data);
        return std::vector<double>(data, data + count);
    }
    case DType::b8: {
        const uint8_t* data = static_cast<const uint8_t*>(array.data);
        std::vector<double> values(count);
        std::transform(data, data + count, values.begin(), [](uint8_t b) { return b != 0; });
        return values;
    }
    }
    return {};
}

// The nearest that an i64 holds; 0 for NaN.
int64_t whole_number(double x) {
    constexpr double beyond = 0x1p63;
    return x >= beyond ? INT64_MAX : x < -beyond ? INT64_MIN : std::isnan(x) ? 0 : int64_t(x);
}

Array narrow(const HostValue& value) {
    Array array{value.dtype, value.shape, {}};
    array.bytes.resize(value.data.size() * dtype_size(value.dtype));
    for (size_t k = 0; k < value.data.size(); k++) {
        switch (value.dtype) {
        case DType::f32:
            array.as<float>()[k] = static_cast<float>(value.data[k]);
            break;
        case DType::i64:
            array.as<int64_t>()[k] = whole_number(value.data[k]);
            break;
        case DType::b8:
            array.as<uint8_t>()[k] = value.data[k] != 0;
            break;
        }
    }
    return array;
}

std::vector<float> mask_values(const HostValue& value, const Boundary& boundary) {
    // Finite, so that a fully masked row attends uniformly instead of giving NaN; so large that
    // a score beside it vanishes.
    constexpr double masked = -1e30;
    const Shape& shape = boundary.shape;
    Shape own = aligned_right(value.shape, shape.size());
    Shape strides = row_major_strides(own);
    std::vector<float> result(element_count(shape));
    IndexWalk walk(shape);
    for (float& element : result) {
        int64_t offset = 0;
        for (size_t k = 0; k < shape.size(); k++) {
            offset += own[k] == 1 ? 0 : walk.at()[k] * strides[k];
        }
        double x = value.data[offset];
        x = value.dtype == DType::f32 ? std::max(x, masked) : (x != 0 ? 0.0 : masked);
        bool is_future = walk.at()[shape.size() - 1] > walk.at()[shape.size() - 2];
        element = static_cast<float>(boundary.causal && is_future ? masked : x);
        walk.advance();
    }
    return result;
}

std::vector<int32_t> index_values(const HostValue& value, const Boundary& boundary,
                                  const std::string& stage) {
    std::vector<int32_t> result;
    for (double x : value.data) {
        if (x != std::trunc(x) || x < 0 || x >= static_cast<double>(boundary.limit)) {
            throw ArgumentError("stage '" + stage + "': the index " + std::to_string(x) +
                                " is no integer from 0 to " + std::to_string(boundary.limit - 1));
        }
        result.push_back(static_cast<int32_t>(x));
    }
    return result;
}

} // namespace

Stage::Stage(Program parsed, const Weights& of_file, Backend& on_backend,
             const std::map<std::string, ggml_tensor*>& shared, bool in_loop)
    : program(std::move(parsed)), weights(of_file), backend(on_backend) {
    size_t nodes = 64 + nodes_per_instruction * program.instructions.size();
    for (const Instruction& instruction : program.instructions) {
        nodes += nodes_per_operand * instruction.operands.size();
    }
    ggml.reset(ggml_init({nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(nodes, false),
                          nullptr, true}));
    if (!ggml) {
        throw Error("out of memory for the graph of stage '" + program.stage + "'");
    }
    builder = std::make_unique<GraphBuilder>(ggml.get(), weights, backend, in_loop);
    graph = ggml_new_graph_custom(ggml.get(), nodes, false);
    try {
        GgmlGuard guard;
        check_host_sizes();
        find_host_uses();
        declare_inputs(shared);
        build_graph();
        build_outputs();
        load_host_constants();
        find_operators_on_cpu();
        allocate();
    } catch (const FileError& error) {
        throw FileError("the program of stage '" + program.stage +
                        "' is not valid: " + error.what());
    }
}

void Stage::check_host_sizes() const {
    int64_t elements = 0;
    for (const Instruction& instruction : program.instructions) {
        if (instruction.on_host) {
            elements += element_count(instruction.shape); // of each: value_elements at most
        }
        if (elements > limits::host_elements) {
            instruction.fail("the host's values have more than " +
                             std::to_string(limits::host_elements) + " elements together");
        }
    }
}

void Stage::find_host_uses() {
    for (const Instruction& instruction : program.instructions) {
        if (instruction.on_host) {
            used_on_host.insert(instruction.operands.begin(), instruction.operands.end());
        }
    }
}

void Stage::declare_inputs(const std::map<std::string, ggml_tensor*>& shared) {
    for (const Instruction& instruction : program.instructions) {
        if (!instruction.is_input()) {
            continue;
        }
        const std::string& input_name = instruction.text("name");
        Input input{instruction.result, {input_name, instruction.dtype, instruction.shape}};
        auto source = shared.find(input_name);
        bool only_on_device = !used_on_host.count(instruction.result);
        if (source != shared.end() && only_on_device) {
            input.tensor = ggml_dup_tensor(ggml.get(), source->second);
            ggml_backend_tensor_alloc(source->second->buffer, input.tensor, source->second->data);
            input.is_shared = true;
        } else if (instruction.dtype == DType::f32 && only_on_device) {
            input.tensor = builder->new_input(instruction.shape);
        }
        if (input.tensor != nullptr) {
            builder->define_device(instruction.result, instruction.shape, input.tensor);
        } else {
            builder->define_host(instruction.result, instruction.dtype, instruction.shape);
        }
        input_infos.push_back(input.info);
        if (!inputs_by_name.emplace(input_name, input).second) {
            instruction.fail("the input " + input_name + " is declared twice");
        }
    }
}

void Stage::build_graph() {
    builder->count_uses(program);
    for (const Instruction& instruction : program.instructions) {
        if (instruction.is_input()) {
            continue;
        }
        if (!instruction.on_host) {
            build(instruction);
            continue;
        }
        for (const std::string& operand : instruction.operands) {
            if (!is_file_tensor(operand) && builder->is_on_device(operand)) {
                instruction.fail("a host operator cannot use the device value " + operand);
            }
        }
        builder->define_host(instruction.result, instruction.dtype, instruction.shape);
    }
}

void Stage::build(const Instruction& instruction) {
    builder->kernel = "ggml";
    builder->build(instruction);
    ggml_tensor* made = last_made == nullptr ? ggml_get_first_tensor(ggml.get())
                                             : ggml_get_next_tensor(ggml.get(), last_made);
    for (; made != nullptr; made = ggml_get_next_tensor(ggml.get(), made)) {
        makers[made] = {&instruction, builder->kernel};
        last_made = made;
    }
}

void Stage::build_outputs() {
    for (const ProgramOutput& output : program.outputs) {
        Instruction reader;
        reader.line = output.line;
        reader.result = "output " + output.name;
        reader.op = "output";
        reader.operands = {output.value};
        output_infos.push_back(
            {output.name, builder->dtype_of(reader, 0), builder->shape_of(reader, 0)});
        bool on_host = !is_file_tensor(output.value) && !builder->is_on_device(output.value);
        if (on_host) {
            continue;
        }
        ggml_tensor* tensor = builder->contiguous(builder->tensor(reader, 0));
        ggml_set_output(tensor);
        if (tensor->view_src != nullptr) {
            // A view's memory belongs to its source, which must then be kept too.
            ggml_set_output(tensor->view_src);
        }
        output_tensors[output.name] = tensor;
        ggml_build_forward_expand(graph, tensor);
    }
}

void Stage::load_host_constants() {
    auto load = [&](const std::string& value) {
        if (is_file_tensor(value) && !host_values.count(value)) {
            if (weights.find(value.substr(1)) == nullptr) {
                throw FileError("the file has no tensor " + value.substr(1));
            }
            host_values[value] = weights.read(value.substr(1));
            changed.insert(value);
        }
    };
    std::for_each(used_on_host.begin(), used_on_host.end(), load);
    for (const Boundary& boundary : builder->boundaries()) {
        load(boundary.value);
    }
}

void Stage::check_host_program(const std::map<std::string, double>& inputs) const {
    std::map<std::string, HostValue> values = host_values;
    for (const auto& [input_name, input] : inputs_by_name) {
        if (input.tensor != nullptr) {
            continue; // the host does not read it
        }
        auto given = inputs.find(input_name);
        double usual = input.info.dtype == DType::b8 ? 1 : 0;
        std::vector<double> elements(element_count(input.info.shape),
                                     given == inputs.end() ? usual : given->second);
        values[input.value] = {input.info.dtype, input.info.shape, std::move(elements)};
    }
    for (const Instruction& instruction : program.instructions) {
        if (!instruction.on_host) {
            continue;
        }
        std::vector<const HostValue*> operands;
        for (const std::string& operand : instruction.operands) {
            operands.push_back(&values.at(operand));
        }
        try {
            values[instruction.result] = evaluate_on_host(instruction, operands);
        } catch (const FileError& error) {
            throw FileError("the program of stage '" + program.stage +
                            "' is not valid: " + error.what());
        }
    }
    for (const Boundary& boundary : builder->boundaries()) {
        try {
            if (boundary.role == Role::indices) {
                index_values(values.at(boundary.value), boundary, name());
            }
        } catch (const ArgumentError& error) {
            throw FileError(std::string(error.what()) + ", but " + boundary.value +
                            " is that for whole prompts of padding and the last step");
        }
    }
}

size_t Stage::compute_bytes() const {
    size_t bytes = placed->bytes();
    for (const Instruction& instruction : program.instructions) {
        if (instruction.on_host || used_on_host.count(instruction.result)) {
            bytes += element_count(instruction.shape) * sizeof(double);
        }
    }
    return bytes;
}

// Tables that stay in the file's mapping are read where they are, whatever the device could.
void Stage::find_operators_on_cpu() {
    if (backend.device() == nullptr) {
        return;
    }
    for (int k = 0; k < ggml_graph_n_nodes(graph); k++) {
        ggml_tensor* node = ggml_graph_node(graph, k);
        bool reads_mapping =
            node->op == GGML_OP_GET_ROWS && ggml_backend_buffer_is_host(node->src[0]->buffer);
        auto maker = makers.find(node);
        if (!reads_mapping && maker != makers.end() && !backend.device_takes(node)) {
            left_to_cpu.insert(maker->second.first->op);
        }
    }
}

void Stage::allocate() {
    try {
        placed = std::make_unique<PlacedGraph>(backend, graph);
    } catch (const FileError&) {
        throw;
    } catch (const Error& error) {
        throw Error(std::string(error.what()) + " for the graph of stage '" + program.stage + "'");
    }
    for (const Constant& constant : builder->constants()) {
        if (constant.tensor->buffer != nullptr) {
            ggml_backend_tensor_set(constant.tensor, constant.data.data(), 0,
                                    constant.data.size() * sizeof(float));
        }
    }
}

bool Stage::needs_input(const std::string& input_name) const {
    auto found = inputs_by_name.find(input_name);
    return found != inputs_by_name.end() && !found->second.is_shared;
}

const ValueInfo* Stage::find_input(const std::string& input_name) const {
    auto found = inputs_by_name.find(input_name);
    return found == inputs_by_name.end() ? nullptr : &found->second.info;
}

const ValueInfo* Stage::find_output(const std::string& output_name) const {
    for (const ValueInfo& info : output_infos) {
        if (info.name == output_name) {
            return &info;
        }
    }
    return nullptr;
}

void Stage::set_input(const std::string& input_name, const ArrayView& value) {
    auto found = inputs_by_name.find(input_name);
    if (found == inputs_by_name.end()) {
        std::string names;
        for (const ValueInfo& info : input_infos) {
            names += " " + info.name;
        }
        throw ArgumentError("stage '" + name() + "' has no input '" + input_name +
                            "'; it has:" + names);
    }
    Input& input = found->second;
    if (value.dtype != input.info.dtype || value.shape != input.info.shape) {
        throw ArgumentError("stage '" + name() + "': the input " + input_name + " is " +
                            dtype_name(value.dtype) + to_string(value.shape) + ", expected " +
                            dtype_name(input.info.dtype) + to_string(input.info.shape));
    }
    input.is_set = true;
    if (input.tensor == nullptr) {
        host_values[input.value] = {value.dtype, value.shape, widen(value)};
        changed.insert(input.value);
    } else if (input.tensor->buffer != nullptr) {
        ggml_backend_tensor_set(input.tensor, value.data, 0, ggml_nbytes(input.tensor));
    }
}

void Stage::check_inputs_are_set() const {
    for (const auto& [input_name, input] : inputs_by_name) {
        if (!input.is_set && !input.is_shared) {
            throw ArgumentError("stage '" + name() + "': the input " + input_name +
                                " is not given");
        }
    }
}

void Stage::run() {
    check_inputs_are_set();
    evaluate_host();
    for (const Boundary& boundary : builder->boundaries()) {
        if (changed.count(boundary.value) && boundary.tensor->buffer != nullptr) {
            fill_boundary(boundary);
        }
    }
    changed.clear();
    if (ggml_graph_n_nodes(graph) == 0) {
        return;
    }
    if (backend.profile() != nullptr) {
        compute_with(*backend.profile());
    } else {
        placed->compute();
    }
}

void Stage::compute_with(Profile& profile) {
    std::set<const Instruction*> counted;
    placed->compute_by_node([&](ggml_tensor* node, double seconds) {
        auto found = makers.find(node);
        if (found == makers.end()) {
            profile.add({name(), "output", "ggml"}, {1, seconds, 0, 0});
            return;
        }
        const auto& [instruction, kernel] = found->second;
        OperatorCost cost;
        if (counted.insert(instruction).second) {
            cost = cost_of(*builder, *instruction);
        }
        cost.seconds = seconds;
        profile.add({name(), instruction->op, kernel}, cost);
    });
}

void Stage::evaluate_host() {
    for (const Instruction& instruction : program.instructions) {
        if (!instruction.on_host) {
            continue;
        }
        bool is_stale = !host_values.count(instruction.result);
        std::vector<const HostValue*> operands;
        for (const std::string& operand : instruction.operands) {
            operands.push_back(&host_values.at(operand));
            is_stale = is_stale || changed.count(operand);
        }
        if (is_stale) {
            host_values[instruction.result] = evaluate_on_host(instruction, operands);
            changed.insert(instruction.result);
        }
    }
}

void Stage::fill_boundary(const Boundary& boundary) {
    const HostValue& value = host_values.at(boundary.value);
    size_t bytes = ggml_nbytes(boundary.tensor);
    if (boundary.role == Role::indices) {
        std::vector<int32_t> data = index_values(value, boundary, name());
        ggml_backend_tensor_set(boundary.tensor, data.data(), 0, bytes);
    } else if (boundary.role == Role::mask) {
        std::vector<float> data = mask_values(value, boundary);
        ggml_backend_tensor_set(boundary.tensor, data.data(), 0, bytes);
    } else {
        std::vector<float> data(value.data.begin(), value.data.end());
        ggml_backend_tensor_set(boundary.tensor, data.data(), 0, bytes);
    }
}

Array Stage::output(const std::string& output_name) const {
    const ValueInfo* info = find_output(output_name);
    if (info == nullptr) {
        throw ArgumentError("stage '" + name() + "' has no output '" + output_name + "'");
    }
    auto on_device = output_tensors.find(output_name);
    if (on_device == output_tensors.end()) {
        return narrow(host_values.at(program.find_output(output_name)->value));
    }
    Array array{info->dtype, info->shape, {}};
    if (info->dtype == DType::f32) {
        array.bytes.resize(ggml_nbytes(on_device->second));
        ggml_backend_tensor_get(on_device->second, array.bytes.data(), 0, array.bytes.size());
        return array;
    }
    // An integer tensor of the file was widened to f32 on its way through the graph.
    std::vector<float> data(element_count(info->shape));
    ggml_backend_tensor_get(on_device->second, data.data(), 0, data.size() * sizeof(float));
    return narrow({info->dtype, info->shape, std::vector<double>(data.begin(), data.end())});
}

ggml_tensor* Stage::output_tensor(const std::string& output_name) const {
    auto found = output_tensors.find(output_name);
    return found == output_tensors.end() ? nullptr : found->second;
}

} // namespace actquant
