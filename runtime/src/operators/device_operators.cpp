#include "operators/operators.h"

namespace actquant {

const std::map<std::string, DeviceOperator>& device_operators() {
    static const std::map<std::string, DeviceOperator> table = [] {
        std::map<std::string, DeviceOperator> operators;
        add_elementwise_operators(operators);
        add_layout_operators(operators);
        add_linear_operators(operators);
        add_convolution_operators(operators);
        add_reduction_operators(operators);
        add_attention_operators(operators);
        return operators;
    }();
    return table;
}

namespace {

const Signature* find_signature(const Instruction& instruction) {
    if (instruction.on_host) {
        auto found = host_operators().find(instruction.op);
        return found == host_operators().end() ? nullptr : &found->second.signature;
    }
    auto found = device_operators().find(instruction.op);
    return found == device_operators().end() ? nullptr : &found->second.signature;
}

} // namespace

void check_operator(const Instruction& instruction) {
    const Signature* signature = find_signature(instruction);
    if (signature == nullptr) {
        instruction.fail(std::string("this runtime has no such operator on the ") +
                         (instruction.on_host ? "host" : "device"));
    }
    int count = static_cast<int>(instruction.operands.size());
    if (count < signature->min_operands || count > signature->max_operands) {
        instruction.fail("it has " + std::to_string(count) + " operands");
    }
    for (const char* attribute : signature->attributes) {
        instruction.text(attribute);
    }
}

} // namespace actquant
