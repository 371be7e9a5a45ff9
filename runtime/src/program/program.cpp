#include "program/program.h"

#include "common/error.h"
#include "common/limits.h"
#include "operators/operators.h"

#include <algorithm>
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
    if (error != std::errc() || end != value.data() + value.size() || std::isnan(number)) {
        fail("the attribute " + key + "=" + value + " is not a number");
    }
    return number;
}

int64_t Instruction::integer(const std::string& key, int64_t least, int64_t most) const {
    int64_t value = integer(key);
    if (value < least || value > most) {
        fail("the attribute " + key + "=" + text(key) + " is not from " + std::to_string(least) +
             " to " + std::to_string(most));
    }
    return value;
}

Shape Instruction::pair(const std::string& key, int64_t least, int64_t most) const {
    Shape values = integers(key);
    bool fits = values.size() == 2 && std::all_of(values.begin(), values.end(), [&](int64_t x) {
                    return x >= least && x <= most;
                });
    if (!fits) {
        fail("the attribute " + key + "=" + text(key) + " is no [height,width] from " +
             std::to_string(least) + " to " + std::to_string(most));
    }
    return values;
}

float Instruction::positive(const std::string& key) const {
    float value = static_cast<float>(number(key));
    if (!std::isfinite(value) || value <= 0) {
        fail("the attribute " + key + "=" + text(key) + " is not finite and above 0");
    }
    return value;
}

int64_t Instruction::integer(const std::string& key) const {
    double value = number(key);
    if (value != std::trunc(value)) {
        fail("the attribute " + key + "=" + text(key) + " is not an integer");
    }
    // An open slice end is written as the largest int64, which a double rounds up.
    return value >= 9.2e18 ? INT64_MAX : value <= -9.2e18 ? INT64_MIN : static_cast<int64_t>(value);
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

Program ProgramTemplate::at(int64_t prompt_length) const {
    Program program = skeleton;
    for (const Symbol& symbol : symbols) {
        Instruction& instruction = program.instructions[symbol.instruction];
        Shape values = shape_at(symbol.sizes, prompt_length);
        if (!symbol.attribute.empty()) {
            instruction.attributes[symbol.attribute] =
                symbol.is_list ? to_string(values) : std::to_string(values[0]);
            continue;
        }
        instruction.shape = values;
        if (std::string problem = what_is_wrong(values, limits::value_elements); !problem.empty()) {
            throw FileError("the program of stage '" + stage() + "' is not valid for prompts of " +
                            std::to_string(prompt_length) + " tokens: line " +
                            std::to_string(instruction.line) + ", " + instruction.result + ": " +
                            problem);
        }
    }
    return program;
}

std::vector<Size> ProgramTemplate::sizes_of(const std::string& value) const {
    for (const Symbol& symbol : symbols) {
        if (symbol.attribute.empty() && skeleton.instructions[symbol.instruction].result == value) {
            return symbol.sizes;
        }
    }
    const Instruction* instruction = skeleton.definition(value);
    return instruction == nullptr ? std::vector<Size>{} : constant_sizes(instruction->shape);
}

// Reads a program line by line.
class ProgramParser {
  public:
    ProgramParser(const std::string& stage, const std::string& text) : text(text) {
        program().stage = stage;
    }

    ProgramTemplate parse();

  private:
    Program& program() { return result.skeleton; }
    void parse_line(const std::vector<std::string>& words, int line);
    void parse_output(const std::vector<std::string>& words, int line);
    void parse_type(const std::string& word, Instruction& instruction);
    void parse_attribute(const std::string& word, Instruction& instruction);
    void check(const Instruction& instruction) const;
    int chain_to(const Instruction& instruction) const;

    const std::string& text;
    ProgramTemplate result;
    // Each value, and how many device operators follow from each other up to it.
    std::map<std::string, int> defined;
};

namespace {

std::vector<std::string> split_words(const std::string& line) {
    std::vector<std::string> words;
    size_t start = 0;
    while (words.size() <= limits::line_words &&
           (start = line.find_first_not_of(" \t\r", start)) != std::string::npos) {
        size_t end = std::min(line.find_first_of(" \t\r", start), line.size());
        words.push_back(line.substr(start, end - start));
        start = end;
    }
    return words;
}

} // namespace

ProgramTemplate ProgramParser::parse() {
    Problems problems;
    std::istringstream stream(text);
    int line_number = 0;
    for (std::string line; std::getline(stream, line);) {
        line_number++;
        if (static_cast<size_t>(line_number) > limits::program_lines) {
            problems.add("the program has more than " + std::to_string(limits::program_lines) +
                         " lines");
            break;
        }
        std::vector<std::string> words = split_words(line);
        if (words.empty()) {
            continue;
        }
        try {
            if (words.size() > limits::line_words) {
                throw FileError("line " + std::to_string(line_number) + " has more than " +
                                std::to_string(limits::line_words) + " words");
            }
            if (words[0] == "output") {
                parse_output(words, line_number);
            } else {
                parse_line(words, line_number);
            }
        } catch (const FileError& error) {
            problems.add(error.what());
        }
        // Defined even when the check fails, so that one unknown operator does not make every
        // later line a problem too.
        defined.try_emplace(words[0], 0);
    }
    if (program().outputs.empty()) {
        problems.add("the program has no output");
    }
    problems.throw_if_any("the program of stage '" + program().stage + "' is not valid:");
    return std::move(result);
}

void ProgramParser::parse_output(const std::vector<std::string>& words, int line) {
    if (words.size() != 3 || (!defined.count(words[2]) && words[2][0] != '@')) {
        throw FileError("line " + std::to_string(line) +
                        ": expected 'output NAME %n' with a defined value, or 'output NAME @name'");
    }
    if (program().find_output(words[1]) != nullptr) {
        throw FileError("line " + std::to_string(line) + ": the output " + words[1] +
                        " comes twice");
    }
    program().outputs.push_back({words[1], words[2], line});
}

void ProgramParser::parse_line(const std::vector<std::string>& words, int line) {
    if (words.size() < 4 || words[0][0] != '%' || words[1] != "=") {
        throw FileError("line " + std::to_string(line) +
                        ": expected '%n = operator type operands attributes'");
    }
    program().instructions.emplace_back();
    Instruction& instruction = program().instructions.back();
    instruction.line = line;
    instruction.result = words[0];
    instruction.op = words[2];
    if (instruction.op.rfind("host.", 0) == 0) {
        instruction.on_host = true;
        instruction.op = instruction.op.substr(5);
    }
    parse_type(words[3], instruction);
    for (size_t k = 4; k < words.size(); k++) {
        if (words[k][0] == '%' || words[k][0] == '@') {
            instruction.operands.push_back(words[k]);
        } else {
            parse_attribute(words[k], instruction);
        }
    }
    check(instruction);
    int chain = chain_to(instruction);
    if (chain > limits::operator_chain) {
        instruction.fail("more than " + std::to_string(limits::operator_chain) +
                         " operators follow from each other");
    }
    defined[instruction.result] = chain;
}

int ProgramParser::chain_to(const Instruction& instruction) const {
    int chain = 0;
    for (const std::string& operand : instruction.operands) {
        auto found = defined.find(operand);
        chain = std::max(chain, found == defined.end() ? 0 : found->second);
    }
    return chain + (instruction.on_host || instruction.is_input() ? 0 : 1);
}

void ProgramParser::parse_type(const std::string& word, Instruction& instruction) {
    size_t bracket = word.find('[');
    std::vector<Size> sizes;
    if (bracket == std::string::npos || !parse_dtype(word.substr(0, bracket), instruction.dtype) ||
        !parse_sizes(std::string_view(word).substr(bracket), sizes)) {
        instruction.fail("'" + word + "' is no type; expected f32[…], i64[…] or b8[…]");
    }
    if (depends_on_prompt(sizes)) {
        result.symbols.push_back({program().instructions.size() - 1, "", true, sizes});
        return;
    }
    instruction.shape = shape_at(sizes, 0);
    if (std::string problem = what_is_wrong(instruction.shape, limits::value_elements);
        !problem.empty()) {
        instruction.fail(problem);
    }
}

void ProgramParser::parse_attribute(const std::string& word, Instruction& instruction) {
    size_t equals = word.find('=');
    if (equals == std::string::npos || equals == 0) {
        instruction.fail("'" + word + "' is neither an operand nor key=value");
    }
    std::string key = word.substr(0, equals);
    std::string value = word.substr(equals + 1);
    std::vector<Size> sizes;
    Size size;
    bool is_list = parse_sizes(value, sizes);
    if (!is_list) {
        sizes.assign(parse_size(value, size) ? 1 : 0, size);
    }
    if (key != "name" && depends_on_prompt(sizes)) {
        result.symbols.push_back({program().instructions.size() - 1, key, is_list, sizes});
    }
    if (!instruction.attributes.emplace(key, value).second) {
        instruction.fail("the attribute " + key + " comes twice");
    }
}

void ProgramParser::check(const Instruction& instruction) const {
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

ProgramTemplate parse_program(const std::string& stage, const std::string& text) {
    return ProgramParser(stage, text).parse();
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
