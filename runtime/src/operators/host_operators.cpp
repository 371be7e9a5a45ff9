#include "operators/operators.h"
#include "program/dimensions.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace actquant {
namespace {

using Operands = std::vector<const HostValue*>;

// Copies `source` into `result`, which has the broadcast shape.
std::vector<double> broadcast(const Instruction& instruction, const HostValue& source,
                              const Shape& shape) {
    Shape reached;
    if (!broadcast_shapes(source.shape, shape, reached) || reached != shape) {
        instruction.fail("cannot broadcast " + to_string(source.shape) + " to " + to_string(shape));
    }
    Shape extents = aligned_right(source.shape, shape.size());
    Shape strides = row_major_strides(extents);
    std::vector<double> result(element_count(shape));
    IndexWalk walk(shape);
    for (double& element : result) {
        int64_t offset = 0;
        for (size_t k = 0; k < shape.size(); k++) {
            offset += extents[k] == 1 ? 0 : walk.at()[k] * strides[k];
        }
        element = source.data[offset];
        walk.advance();
    }
    return result;
}

// Fills the result by reading the source at a strided position.
void gather(const HostValue& source, int64_t start, const Shape& strides, HostValue& result) {
    IndexWalk walk(result.shape);
    for (double& element : result.data) {
        int64_t offset = start;
        for (size_t k = 0; k < result.shape.size(); k++) {
            offset += walk.at()[k] * strides[k];
        }
        element = source.data[offset];
        walk.advance();
    }
}

void reshape(const Instruction& instruction, const Operands& operands, HostValue& result) {
    if (operands[0]->data.size() != result.data.size()) {
        instruction.fail("cannot reshape " + to_string(operands[0]->shape) + " to " +
                         to_string(result.shape));
    }
    result.data = operands[0]->data;
}

void expand(const Instruction& instruction, const Operands& operands, HostValue& result) {
    result.data = broadcast(instruction, *operands[0], result.shape);
}

void permute(const Instruction& instruction, const Operands& operands, HostValue& result) {
    const HostValue& source = *operands[0];
    Shape strides = row_major_strides(source.shape);
    Shape permuted_strides;
    Shape permuted_shape;
    for (size_t dimension : permutation(instruction, source.shape)) {
        permuted_strides.push_back(strides[dimension]);
        permuted_shape.push_back(source.shape[dimension]);
    }
    if (permuted_shape != result.shape) {
        instruction.fail("the result is " + to_string(permuted_shape));
    }
    gather(source, 0, permuted_strides, result);
}

void slice(const Instruction& instruction, const Operands& operands, HostValue& result) {
    const HostValue& source = *operands[0];
    size_t dimension = instruction.dimension("dim", source.shape.size());
    Range range = slice_range(instruction, source.shape[dimension]);
    Shape expected = source.shape;
    expected[dimension] = range.count;
    if (expected != result.shape) {
        instruction.fail("the slice of " + to_string(source.shape) + " is " + to_string(expected));
    }
    Shape strides = row_major_strides(source.shape);
    int64_t offset = range.start * strides[dimension];
    strides[dimension] *= range.step;
    gather(source, offset, strides, result);
}

void concat(const Instruction& instruction, const Operands& operands, HostValue& result) {
    size_t dimension = instruction.dimension("dim", result.shape.size());
    int64_t outer = 1;
    for (size_t k = 0; k < dimension; k++) {
        outer *= result.shape[k];
    }
    int64_t total = 0;
    for (const HostValue* operand : operands) {
        Shape expected = result.shape;
        if (operand->shape.size() == expected.size()) {
            expected[dimension] = operand->shape[dimension];
        }
        if (operand->shape != expected) {
            instruction.fail("cannot concatenate " + to_string(operand->shape) + " into " +
                             to_string(result.shape));
        }
        total += operand->shape[dimension];
    }
    if (total != result.shape[dimension]) {
        instruction.fail("the parts add up to " + std::to_string(total));
    }
    auto target = result.data.begin();
    for (int64_t o = 0; o < outer; o++) {
        for (const HostValue* operand : operands) {
            int64_t width = static_cast<int64_t>(operand->data.size()) / outer;
            target = std::copy_n(operand->data.begin() + o * width, width, target);
        }
    }
}

using ElementFunction = std::function<double(double)>;

// `prepare` reads the attributes once per instruction, not once per element.
HostOperator unary(ElementFunction (*prepare)(const Instruction&),
                   std::vector<const char*> attributes = {}) {
    return {{1, 1, std::move(attributes)},
            [prepare](const Instruction& instruction, const Operands& operands, HostValue& result) {
                if (operands[0]->shape != result.shape) {
                    instruction.fail("the operand is " + to_string(operands[0]->shape));
                }
                std::transform(operands[0]->data.begin(), operands[0]->data.end(),
                               result.data.begin(), prepare(instruction));
            }};
}

void full(const Instruction& instruction, const Operands&, HostValue& result) {
    std::fill(result.data.begin(), result.data.end(), instruction.number("value"));
}

void choose(const Instruction& instruction, const Operands& operands, HostValue& result) {
    std::vector<double> condition = broadcast(instruction, *operands[0], result.shape);
    std::vector<double> chosen = broadcast(instruction, *operands[1], result.shape);
    std::vector<double> other = broadcast(instruction, *operands[2], result.shape);
    for (size_t k = 0; k < result.data.size(); k++) {
        result.data[k] = condition[k] != 0 ? chosen[k] : other[k];
    }
}

HostOperator binary(double (*function)(double, double)) {
    return {
        {2, 2},
        [function](const Instruction& instruction, const Operands& operands, HostValue& result) {
            std::vector<double> a = broadcast(instruction, *operands[0], result.shape);
            std::vector<double> b = broadcast(instruction, *operands[1], result.shape);
            for (size_t k = 0; k < result.data.size(); k++) {
                result.data[k] = function(a[k], b[k]);
            }
        }};
}

// Visits every line along `dimension`: calls visit(offset of its first element, stride).
template <typename Visit> void for_each_line(const Shape& shape, size_t dimension, Visit visit) {
    int64_t stride = row_major_strides(shape)[dimension];
    int64_t extent = shape[dimension];
    for (int64_t k = 0; k < element_count(shape); k++) {
        if ((k / stride) % extent == 0) {
            visit(k, stride);
        }
    }
}

void cumsum(const Instruction& instruction, const Operands& operands, HostValue& result) {
    if (operands[0]->shape != result.shape) {
        instruction.fail("the operand is " + to_string(operands[0]->shape));
    }
    size_t dimension = instruction.dimension("dim", result.shape.size());
    result.data = operands[0]->data;
    for_each_line(result.shape, dimension, [&](int64_t first, int64_t stride) {
        for (int64_t k = 1; k < result.shape[dimension]; k++) {
            result.data[first + k * stride] += result.data[first + (k - 1) * stride];
        }
    });
}

HostOperator reduction(double initial, double (*combine)(double, double)) {
    return {{1, 1, {"dims", "keep"}},
            [=](const Instruction& instruction, const Operands& operands, HostValue& result) {
                HostValue current = *operands[0];
                if (reduced_shape(instruction, current.shape) != result.shape) {
                    instruction.fail("the operand is " + to_string(current.shape));
                }
                for (size_t dimension : reduced_dimensions(instruction, current.shape)) {
                    HostValue reduced{current.dtype, current.shape, {}};
                    reduced.shape[dimension] = 1;
                    for_each_line(current.shape, dimension, [&](int64_t first, int64_t stride) {
                        double value = initial;
                        for (int64_t k = 0; k < current.shape[dimension]; k++) {
                            value = combine(value, current.data[first + k * stride]);
                        }
                        reduced.data.push_back(value);
                    });
                    current = std::move(reduced);
                }
                result.data = std::move(current.data);
            }};
}

ElementFunction cast(const Instruction& instruction) {
    switch (instruction.dtype) {
    case DType::f32:
        return [](double x) { return static_cast<double>(static_cast<float>(x)); };
    case DType::i64:
        return [](double x) { return std::trunc(x); };
    case DType::b8:
        return [](double x) { return double(x != 0); };
    }
    return {};
}

ElementFunction affine(const Instruction& instruction) {
    return
        [a = instruction.number("a"), b = instruction.number("b")](double x) { return a * x + b; };
}

ElementFunction choose_number(const Instruction& instruction) {
    return [a = instruction.number("a"), b = instruction.number("b")](double condition) {
        return condition != 0 ? a : b;
    };
}

ElementFunction negation(const Instruction&) {
    return [](double x) { return double(x == 0); };
}

ElementFunction exponential(const Instruction&) {
    return [](double x) { return std::exp(x); };
}

ElementFunction sine(const Instruction&) {
    return [](double x) { return std::sin(x); };
}

ElementFunction cosine(const Instruction&) {
    return [](double x) { return std::cos(x); };
}

} // namespace

const std::map<std::string, HostOperator>& host_operators() {
    static const std::map<std::string, HostOperator> table = {
        {"reshape", {{1, 1}, reshape}},
        {"slice", {{1, 1, {"dim", "start"}}, slice}},
        {"expand", {{1, 1}, expand}},
        {"concat", {{1, any_number, {"dim"}}, concat}},
        {"permute", {{1, 1, {"perm"}}, permute}},
        {"cast", unary(cast)},
        {"affine", unary(affine, {"a", "b"})},
        {"select_s", unary(choose_number, {"a", "b"})},
        {"select", {{3, 3}, choose}},
        {"full", {{0, 0, {"shape", "value"}}, full}},
        {"sin", unary(sine)},
        {"cos", unary(cosine)},
        {"exp", unary(exponential)},
        {"not", unary(negation)},
        {"add", binary([](double a, double b) { return a + b; })},
        {"sub", binary([](double a, double b) { return a - b; })},
        {"mul", binary([](double a, double b) { return a * b; })},
        {"div", binary([](double a, double b) { return a / b; })},
        {"and", binary([](double a, double b) { return double(a != 0 && b != 0); })},
        {"or", binary([](double a, double b) { return double(a != 0 || b != 0); })},
        {"le", binary([](double a, double b) { return double(a <= b); })},
        {"lt", binary([](double a, double b) { return double(a < b); })},
        {"eq", binary([](double a, double b) { return double(a == b); })},
        {"cumsum", {{1, 1, {"dim"}}, cumsum}},
        {"sum", reduction(0, [](double a, double b) { return a + b; })},
        {"min", reduction(std::numeric_limits<double>::infinity(),
                          [](double a, double b) { return std::min(a, b); })},
        {"max", reduction(-std::numeric_limits<double>::infinity(),
                          [](double a, double b) { return std::max(a, b); })},
    };
    return table;
}

HostValue evaluate_on_host(const Instruction& instruction, const Operands& operands) {
    HostValue result{instruction.dtype, instruction.shape, {}};
    result.data.resize(element_count(instruction.shape));
    host_operators().at(instruction.op).evaluate(instruction, operands, result);
    return result;
}

} // namespace actquant
