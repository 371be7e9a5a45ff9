#include "loop_invariants.h"

#include "error.h"

namespace actquant {
namespace {

using Definitions = std::map<std::string, const Instruction*>;

// Costs nothing to repeat in the loop: no data is moved, or a changed input is checked for anyway.
bool is_free(const Instruction& instruction) {
    static const std::set<std::string> views = {"reshape", "permute", "slice", "cast"};
    return instruction.is_input() || instruction.on_host || views.count(instruction.op);
}

std::set<std::string> varying_values(const Program& program,
                                     const std::set<std::string>& loop_inputs) {
    std::set<std::string> varying;
    for (const Instruction& instruction : program.instructions) {
        bool varies = instruction.is_input() && loop_inputs.count(instruction.text("name"));
        for (const std::string& operand : instruction.operands) {
            varies = varies || varying.count(operand);
        }
        if (varies) {
            varying.insert(instruction.result);
        }
    }
    return varying;
}

// Everything that `wanted` needs, following operands; stops at (and collects) values for which
// `is_boundary` holds.
template <typename Predicate>
std::set<std::string> closure(const Definitions& definitions, std::vector<std::string> wanted,
                              Predicate is_boundary, std::set<std::string>& boundary) {
    std::set<std::string> needed;
    while (!wanted.empty()) {
        std::string value = wanted.back();
        wanted.pop_back();
        if (is_file_tensor(value) || needed.count(value)) {
            continue;
        }
        const Instruction& instruction = *definitions.at(value);
        if (is_boundary(instruction)) {
            boundary.insert(value);
            continue;
        }
        needed.insert(value);
        wanted.insert(wanted.end(), instruction.operands.begin(), instruction.operands.end());
    }
    return needed;
}

Instruction as_input(const Instruction& instruction) {
    Instruction input = instruction;
    input.op = "input";
    input.operands.clear();
    input.attributes = {{"name", instruction.result}};
    return input;
}

} // namespace

SplitProgram split_loop(const Program& program, const std::set<std::string>& loop_inputs) {
    Definitions definitions;
    for (const Instruction& instruction : program.instructions) {
        definitions[instruction.result] = &instruction;
    }
    std::set<std::string> varying = varying_values(program, loop_inputs);
    std::vector<std::string> results;
    for (const ProgramOutput& output : program.outputs) {
        results.push_back(output.value);
    }
    std::set<std::string> handed_over;
    auto is_invariant = [&](const Instruction& instruction) {
        return !varying.count(instruction.result) && !is_free(instruction);
    };
    std::set<std::string> in_body = closure(definitions, results, is_invariant, handed_over);
    std::set<std::string> none;
    std::set<std::string> in_once = closure(
        definitions, {handed_over.begin(), handed_over.end()},
        [](const Instruction&) { return false; }, none);

    SplitProgram split;
    split.once.stage = split.body.stage = program.stage;
    for (const Instruction& instruction : program.instructions) {
        if (in_once.count(instruction.result)) {
            split.once.instructions.push_back(instruction);
        }
        if (handed_over.count(instruction.result)) {
            split.once.outputs.push_back({instruction.result, instruction.result, 0});
            split.body.instructions.push_back(as_input(instruction));
        } else if (in_body.count(instruction.result) || instruction.is_input()) {
            split.body.instructions.push_back(instruction);
        }
    }
    split.body.outputs = program.outputs;
    return split;
}

LoopStage::LoopStage(const Program& program, const std::set<std::string>& loop_inputs,
                     const ModelFile& file, Device& device,
                     const std::map<std::string, ggml_tensor*>& shared) {
    for (const Instruction& instruction : program.instructions) {
        if (instruction.is_input()) {
            input_infos.push_back({instruction.text("name"), instruction.dtype, instruction.shape});
        }
    }
    SplitProgram split = split_loop(program, loop_inputs);
    std::map<std::string, ggml_tensor*> shared_with_body = shared;
    if (!split.once.outputs.empty()) {
        once = std::make_unique<Stage>(std::move(split.once), file, device, shared);
        for (const ValueInfo& output : once->outputs()) {
            shared_with_body[output.name] = once->output_tensor(output.name);
        }
    }
    body = std::make_unique<Stage>(std::move(split.body), file, device, shared_with_body);
}

bool LoopStage::needs_input(const std::string& name) const {
    return body->needs_input(name) || (once && once->needs_input(name));
}

void LoopStage::set_input(const std::string& name, const ArrayView& value) {
    if (once && once->find_input(name) != nullptr) {
        once->set_input(name, value);
    }
    body->set_input(name, value);
}

void LoopStage::run_once() {
    if (once) {
        once->run();
    }
}

} // namespace actquant
