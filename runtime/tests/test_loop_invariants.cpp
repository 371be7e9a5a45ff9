#include "check.h"
#include "loop_invariants.h"

using namespace actquant;

static std::vector<std::string> results(const Program& program) {
    std::vector<std::string> names;
    for (const Instruction& instruction : program.instructions) {
        names.push_back(instruction.result);
    }
    return names;
}

static void moves_what_is_constant_out_of_the_loop() {
    Program program = parse_program("denoise", "%0 = input f32[2,4] name=x\n"
                                               "%1 = input f32[4,2] name=keys\n"
                                               "%2 = sqr f32[4,2] %1\n"
                                               "%3 = permute f32[2,4] %2 perm=[1,0]\n"
                                               "%4 = mul f32[2,4] %0 %3\n"
                                               "%5 = sqr f32[4,2] %2\n"
                                               "output y %4\noutput z %5\n")
                          .at(0);
    SplitProgram split = split_loop(program, {"x"});
    using Names = std::vector<std::string>;
    CHECK(results(split.once) == Names({"%1", "%2", "%5"}));
    CHECK(split.once.outputs.size() == 2 && split.once.outputs[0].name == "%2");
    // The view is repeated in the loop, what it views is not computed again.
    CHECK(results(split.body) == Names({"%0", "%1", "%2", "%3", "%4", "%5"}));
    CHECK(split.body.instructions[2].is_input() && split.body.instructions[5].is_input());
    CHECK(!split.body.instructions[3].is_input());
}

static void leaves_a_loop_without_invariants_alone() {
    Program program = parse_program("denoise", "%0 = input f32[2,4] name=x\n"
                                               "%1 = sqr f32[2,4] %0\noutput y %1\n")
                          .at(0);
    SplitProgram split = split_loop(program, {"x"});
    CHECK(split.once.outputs.empty() && split.body.instructions.size() == 2);
}

int main() {
    moves_what_is_constant_out_of_the_loop();
    leaves_a_loop_without_invariants_alone();
}
