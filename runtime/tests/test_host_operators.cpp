#include "check.h"
#include "common/error.h"
#include "operators/operators.h"

#include <limits>

using namespace actquant;

static Instruction line(const std::string& op, Shape shape, DType dtype = DType::i64,
                        std::map<std::string, std::string> attributes = {}) {
    Instruction instruction;
    instruction.op = op;
    instruction.on_host = true;
    instruction.shape = std::move(shape);
    instruction.dtype = dtype;
    instruction.attributes = std::move(attributes);
    return instruction;
}

static std::vector<double> evaluate(const Instruction& instruction,
                                    const std::vector<HostValue>& operands) {
    std::vector<const HostValue*> pointers;
    for (const HostValue& operand : operands) {
        pointers.push_back(&operand);
    }
    return evaluate_on_host(instruction, pointers).data;
}

using Values = std::vector<double>;

static void reduces_along_any_dimension() {
    HostValue x{DType::i64, {2, 3}, {1, 2, 3, 4, 5, 6}};
    CHECK(evaluate(line("sum", {3}, DType::i64, {{"dims", "[0]"}, {"keep", "0"}}), {x}) ==
          Values({5, 7, 9}));
    CHECK(evaluate(line("min", {2, 1}, DType::i64, {{"dims", "[-1]"}, {"keep", "1"}}), {x}) ==
          Values({1, 4}));
    CHECK(evaluate(line("cumsum", {2, 3}, DType::i64, {{"dim", "0"}}), {x}) ==
          Values({1, 2, 3, 5, 7, 9}));
}

static void moves_elements() {
    HostValue x{DType::i64, {2, 3}, {1, 2, 3, 4, 5, 6}};
    CHECK(evaluate(line("permute", {3, 2}, DType::i64, {{"perm", "[1,0]"}}), {x}) ==
          Values({1, 4, 2, 5, 3, 6}));
    CHECK(evaluate(line("slice", {2, 2}, DType::i64,
                        {{"dim", "1"}, {"start", "0"}, {"end", "3"}, {"step", "2"}}),
                   {x}) == Values({1, 3, 4, 6}));
    CHECK(evaluate(line("slice", {2, 1}, DType::i64, {{"dim", "-1"}, {"start", "-1"}}), {x}) ==
          Values({3, 6}));
    CHECK(
        evaluate(line("slice", {2, 2}, DType::i64, {{"dim", "1"}, {"start", "-9"}, {"end", "-1"}}),
                 {x}) == Values({1, 2, 4, 5}));
    CHECK(evaluate(line("permute", {3, 2}, DType::i64, {{"perm", "[-1,-2]"}}), {x}) ==
          Values({1, 4, 2, 5, 3, 6}));
    CHECK(evaluate(line("concat", {2, 4}, DType::i64, {{"dim", "1"}}),
                   {x, {DType::i64, {2, 1}, {8, 9}}}) == Values({1, 2, 3, 8, 4, 5, 6, 9}));
    CHECK(evaluate(line("expand", {2, 2}), {{DType::i64, {2, 1}, {8, 9}}}) == Values({8, 8, 9, 9}));
}

static void computes_in_double_precision() {
    HostValue big{DType::i64, {1}, {9007199254740991.0}};
    CHECK(evaluate(line("sub", {1}), {big, {DType::i64, {1}, {1}}}) ==
          Values({9007199254740990.0}));
    double infinity = std::numeric_limits<double>::infinity();
    CHECK(evaluate(line("select_s", {2}, DType::f32, {{"a", "0"}, {"b", "-inf"}}),
                   {{DType::b8, {2}, {1, 0}}}) == Values({0, -infinity}));
}

static void refuses_shapes_that_do_not_fit() {
    HostValue x{DType::i64, {2, 3}, {1, 2, 3, 4, 5, 6}};
    auto refusal = [&](const Instruction& instruction) {
        return message_of<FileError>([&] { evaluate(instruction, {x, x}); });
    };
    CHECK(contains(refusal(line("add", {3, 3})), "cannot broadcast [2,3]"));
    CHECK(contains(refusal(line("reshape", {5})), "cannot reshape"));
    CHECK(contains(refusal(line("slice", {2, 2}, DType::i64, {{"dim", "1"}, {"start", "2"}})),
                   "the slice of [2,3] is [2,1]"));
    CHECK(contains(
        refusal(line("slice", {2, 3}, DType::i64, {{"dim", "1"}, {"start", "0"}, {"end", "2"}})),
        "the slice of [2,3] is [2,2]"));
    CHECK(contains(refusal(line("permute", {2, 2}, DType::i64, {{"perm", "[0,0]"}})), "perm"));
    CHECK(contains(refusal(line("concat", {2, 5}, DType::i64, {{"dim", "1"}})), "add up to 6"));
    CHECK(contains(refusal(line("permute", {2, 3}, DType::i64, {{"perm", "[0,5]"}})), "perm"));
    CHECK(contains(refusal(line("cumsum", {2, 3}, DType::i64, {{"dim", "2"}})), "no dimension"));
}

int main() {
    reduces_along_any_dimension();
    moves_elements();
    computes_in_double_precision();
    refuses_shapes_that_do_not_fit();
}
