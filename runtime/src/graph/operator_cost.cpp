#include "graph/operator_cost.h"

namespace actquant {
namespace {

double elements(const Shape& shape) {
    return static_cast<double>(element_count(shape));
}

// Multiplications and additions, or elements.
double operations_of(const GraphBuilder& graph, const Instruction& instruction) {
    double results = elements(instruction.shape);
    auto shape = [&](size_t operand) { return graph.shape_of(instruction, operand); };
    if (instruction.op == "linear" || instruction.op == "matmul") {
        return 2 * results * static_cast<double>(shape(0).back());
    }
    if (instruction.op == "sdpa") {
        // q [.., queries, width], k [.., keys, width], v [.., keys, value width]
        double keys = static_cast<double>(shape(1)[shape(1).size() - 2]);
        double width = static_cast<double>(shape(0).back() + shape(2).back());
        return 2 * elements(shape(0)) / static_cast<double>(shape(0).back()) * keys * width;
    }
    if (instruction.op.starts_with("conv")) {
        // Each weight of an output's window, [out, in of a group, window]; of the transposed form
        // each of an input's.
        double window = elements(shape(1)) / static_cast<double>(shape(1)[0]);
        bool transposed = instruction.op == "conv_transpose1d";
        return 2 * window * (transposed ? elements(shape(0)) : results);
    }
    return results;
}

} // namespace

OperatorCost cost_of(const GraphBuilder& graph, const Instruction& instruction) {
    OperatorCost cost{1, 0, operations_of(graph, instruction), 0};
    for (size_t k = 0; k < instruction.operands.size(); k++) {
        bool is_table = instruction.op == "embedding" && k == 0;
        if (is_file_tensor(instruction.operands[k]) && !is_table) {
            const ggml_tensor* weight = graph.weight(instruction, k).tensor;
            cost.weight_bytes += static_cast<double>(ggml_nbytes(weight));
        }
    }
    return cost;
}

} // namespace actquant
