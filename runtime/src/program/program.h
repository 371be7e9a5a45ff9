#pragma once

#include "program/size.h"

#include <map>
#include <set>
#include <string>
#include <vector>

namespace actquant {

// One line of a stage's program: `%4 = linear f32[1,36,256] %3 @w @b key=value`.
struct Instruction {
    int line = 0;
    std::string result;
    std::string op;
    bool on_host = false;
    DType dtype = DType::f32;
    Shape shape;
    std::vector<std::string> operands;
    std::map<std::string, std::string> attributes;

    bool is_input() const { return op == "input"; }
    bool has(const std::string& key) const { return attributes.count(key) > 0; }
    // These throw FileError naming the line when the attribute is missing or no such value.
    const std::string& text(const std::string& key) const;
    double number(const std::string& key) const;
    int64_t integer(const std::string& key) const;
    int64_t integer(const std::string& key, int64_t least, int64_t most) const;
    // A finite number above 0.
    float positive(const std::string& key) const;
    // [height, width], both within the bounds.
    Shape pair(const std::string& key, int64_t least, int64_t most) const;
    Shape integers(const std::string& key) const;
    // A dimension attribute, negative ones counted from the end of `rank`.
    size_t dimension(const std::string& key, size_t rank) const;

    [[noreturn]] void fail(const std::string& problem) const;
};

struct ProgramOutput {
    std::string name;
    std::string value;
    int line = 0;
};

// A stage's program for one prompt length: every size is a number.
struct Program {
    std::string stage;
    std::vector<Instruction> instructions;
    std::vector<ProgramOutput> outputs;

    const Instruction* find_input(const std::string& name) const;
    const ProgramOutput* find_output(const std::string& name) const;
    // The instruction that defines a %value; null for a tensor of the file.
    const Instruction* definition(const std::string& value) const;
};

inline bool is_file_tensor(const std::string& operand) {
    return operand[0] == '@';
}

// A stage's program as the file holds it, for prompts of any length.
class ProgramTemplate {
  public:
    const std::string& stage() const { return skeleton.stage; }
    bool depends_on_prompt() const { return !symbols.empty(); }
    // Throws FileError, naming the line, when a dimension is below 1 at this length.
    Program at(int64_t prompt_length) const;
    // The shape of a %value.
    std::vector<Size> sizes_of(const std::string& value) const;
    // Everything but the shapes and attributes that depend on the prompt.
    const Program& structure() const { return skeleton; }

  private:
    friend class ProgramParser;
    // A shape or an attribute that depends on the prompt.
    struct Symbol {
        size_t instruction;
        std::string attribute; // empty: the shape
        bool is_list;
        std::vector<Size> sizes;
    };

    Program skeleton;
    std::vector<Symbol> symbols;
};

// Checks the grammar, that every %value is defined once and before its use, and that every
// operator is known. Throws FileError with all problems of the stage.
ProgramTemplate parse_program(const std::string& stage, const std::string& text);

// The names of the file's tensors that a program uses, without the @.
std::set<std::string> tensors_used(const Program& program);

} // namespace actquant
