#include "program.h"

#include "error.h"
#include "operators.h"

#include <charconv>
#include <cmath>
#include <sstream>

namespace actquant {

void Instruction::fail(const std::string& problem) const {
    throw FileError("line " + std::to_string(line) + ", " + result + " = " +
                    (on_host ? "host." : "") + op + ": " + problem);
}

const std::string& Instruction::text(const std::string& key) const {
    auto found = attributes.find(key);
    if (found == attributes.end()) {
        fail("the attribute " + key + " is missing");
    }
    return found->second;
}

double Instruction::number(const std::string& key) const {
    const std::string& value = text(key);
    double number = 0;
    auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc() || end != value.data() + value.size()) {
        fail("the attribute " + key + "=" + value + " is not a number");
    }
    return number;
}

int64_t Instruction::integer(const std::string& key) const {
    double value = number(key);
    if (value != std::trunc(value)) {
        fail("the attribute " + key + "=" + text(key) + " is not an integer");
    }
    // An open slice end is written as the largest int64, which a double rounds up.
    return value >= 9.2e18 ? INT64_MAX : static_cast<int64_t>(value);
}

Shape Instruction::integers(const std::string& key) const {
    Shape values;
    if (!parse_shape(text(key), values)) {
        fail("the attribute " + key + "=" + text(key) + " is not a list of integers");
    }
    return values;
}

size_t Instruction::dimension(const std::string& key, size_t rank) const {
    int64_t value = integer(key);
    int64_t wrapped = value < 0 ? value + static_cast<int64_t>(rank) : value;
    if (wrapped < 0 || wrapped >= static_cast<int64_t>(rank)) {
        fail("the attribute " + key + "=" + std::to_string(value) + " is no dimension of rank " +
             std::to_string(rank));
    }
    return static_cast<size_t>(wrapped);
}

const Instruction* Program::find_input(const std::string& name) const {
    for (const Instruction& instruction : instructions) {
        if (instruction.is_input() && instruction.text("name") == name) {
            return &instruction;
        }
    }
    return nullptr;
}

const ProgramOutput* Program::find_output(const std::string& name) const {
    for (const ProgramOutput& output : outputs) {
        if (output.name == name) {
            return &output;
        }
    }
    return nullptr;
}

const Instruction* Program::definition(const std::string& value) const {
    for (const Instruction& instruction : instructions) {
        if (instruction.result == value) {
            return &instruction;
        }
    }
    return nullptr;
}

namespace {

std::vector<std::string> split_words(const std::string& line) {
    std::istringstream stream(line);
    std::vector<std::string> words;
    for (std::string word; stream >> word;) {
        words.push_back(word);
    }
    return words;
}

void parse_type(const std::string& word, Instruction& instruction) {
    size_t bracket = word.find('[');
    if (bracket == std::string::npos || !parse_dtype(word.substr(0, bracket), instruction.dtype) ||
        !parse_shape(word.substr(bracket), instruction.shape)) {
        instruction.fail("'" + word + "' is no type; expected f32[…], i64[…] or b8[…]");
    }
    for (int64_t extent : instruction.shape) {
        if (extent < 1) {
            instruction.fail("the shape " + word + " has an empty dimension");
        }
    }
}

Instruction parse_instruction(const std::vector<std::string>& words, int line) {
    Instruction instruction;
    instruction.line = line;
    if (words.size() < 4 || words[0][0] != '%' || words[1] != "=") {
        throw FileError("line " + std::to_string(line) +
                        ": expected '%n = operator type operands attributes'");
    }
    instruction.result = words[0];
    instruction.op = words[2];
    if (instruction.op.rfind("host.", 0) == 0) {
        instruction.on_host = true;
        instruction.op = instruction.op.substr(5);
    }
    parse_type(words[3], instruction);
    for (size_t k = 4; k < words.size(); k++) {
        const std::string& word = words[k];
        size_t equals = word.find('=');
        if (word[0] == '%' || word[0] == '@') {
            instruction.operands.push_back(word);
        } else if (equals != std::string::npos && equals > 0) {
            instruction.attributes[word.substr(0, equals)] = word.substr(equals + 1);
        } else {
            instruction.fail("'" + word + "' is neither an operand nor key=value");
        }
    }
    return instruction;
}

void check_instruction(const Instruction& instruction, const std::set<std::string>& defined) {
    if (instruction.is_input()) {
        instruction.text("name");
    } else {
        check_operator(instruction);
    }
    for (const std::string& operand : instruction.operands) {
        if (!is_file_tensor(operand) && !defined.count(operand)) {
            instruction.fail("the operand " + operand + " is not defined before this line");
        }
    }
    if (defined.count(instruction.result)) {
        instruction.fail("the value is defined twice");
    }
}

} // namespace

Program parse_program(const std::string& stage, const std::string& text) {
    Program program;
    program.stage = stage;
    std::set<std::string> defined;
    Problems problems;
    std::istringstream stream(text);
    int line_number = 0;
    for (std::string line; std::getline(stream, line);) {
        line_number++;
        std::vector<std::string> words = split_words(line);
        if (words.empty()) {
            continue;
        }
        try {
            if (words[0] == "output") {
                if (words.size() != 3 || (!defined.count(words[2]) && words[2][0] != '@')) {
                    throw FileError("line " + std::to_string(line_number) +
                                    ": expected 'output NAME %n' with a defined value");
                }
                program.outputs.push_back({words[1], words[2], line_number});
                continue;
            }
            program.instructions.push_back(parse_instruction(words, line_number));
            check_instruction(program.instructions.back(), defined);
        } catch (const FileError& error) {
            problems.add(error.what());
        }
        // Defined even when the check fails, so that one unknown operator does not make every
        // later line a problem too.
        defined.insert(words[0]);
    }
    if (program.outputs.empty()) {
        problems.add("the program has no output");
    }
    problems.throw_if_any("the program of stage '" + stage + "' is not valid:");
    return program;
}

std::set<std::string> tensors_used(const Program& program) {
    std::set<std::string> names;
    for (const Instruction& instruction : program.instructions) {
        for (const std::string& operand : instruction.operands) {
            if (is_file_tensor(operand)) {
                names.insert(operand.substr(1));
            }
        }
    }
    for (const ProgramOutput& output : program.outputs) {
        if (is_file_tensor(output.value)) {
            names.insert(output.value.substr(1));
        }
    }
    return names;
}

} // namespace actquant
