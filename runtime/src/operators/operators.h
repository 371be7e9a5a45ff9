#pragma once

#include "program/host_value.h"
#include "program/program.h"

#include <climits>
#include <functional>
#include <vector>

struct ggml_tensor;

namespace actquant {

class GraphBuilder;

// What every operator's line must look like, on the device or on the host.
struct Signature {
    int min_operands = 1;
    int max_operands = 1;
    std::vector<const char*> attributes = {};
};
inline constexpr int any_number = INT_MAX;

struct DeviceOperator {
    Signature signature;
    // Appends the operator's nodes to the graph and returns the result, which must hold
    // instruction.shape.
    std::function<ggml_tensor*(GraphBuilder&, const Instruction&)> build;
};

struct HostOperator {
    Signature signature;
    // Fills result.data; result.dtype and .shape are set to what the program declares.
    std::function<void(const Instruction&, const std::vector<const HostValue*>&, HostValue& result)>
        evaluate;
};

const std::map<std::string, DeviceOperator>& device_operators();
const std::map<std::string, HostOperator>& host_operators();

// Refuses an unknown operator by name, a wrong number of operands and missing attributes.
void check_operator(const Instruction& instruction);

HostValue evaluate_on_host(const Instruction& instruction,
                           const std::vector<const HostValue*>& operands);

// The families of device operators; device_operators() is their union.
void add_elementwise_operators(std::map<std::string, DeviceOperator>& table);
void add_layout_operators(std::map<std::string, DeviceOperator>& table);
void add_linear_operators(std::map<std::string, DeviceOperator>& table);
void add_convolution_operators(std::map<std::string, DeviceOperator>& table);
void add_reduction_operators(std::map<std::string, DeviceOperator>& table);
void add_attention_operators(std::map<std::string, DeviceOperator>& table);

} // namespace actquant
