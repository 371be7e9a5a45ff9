#include "check.h"
#include "common/error.h"
#include "program/program.h"

using namespace actquant;

static std::string refusal(const std::string& text) {
    return message_of<FileError>([&] { parse_program("stage", text); });
}

static void parses_every_part_of_a_line() {
    Program program = parse_program("stage", "%0 = input f32[2,3] name=x\n"
                                             "\n"
                                             "%1 = host.affine i64[] @c a=-1e-05 b=inf\n"
                                             "%2 = conv2d f32[1] %0 @w @b stride=[2,3] pad=[] "
                                             "dil=[1]\n"
                                             "output y %2\noutput c @c\n")
                          .at(0);
    CHECK(program.instructions.size() == 3 && program.outputs.size() == 2);
    const Instruction& host = program.instructions[1];
    CHECK(host.on_host && host.op == "affine" && host.dtype == DType::i64 && host.shape.empty());
    CHECK(host.number("a") == -1e-05 && host.number("b") > 1e300 && host.line == 3);
    const Instruction& conv = program.instructions[2];
    CHECK(conv.operands == std::vector<std::string>({"%0", "@w", "@b"}));
    CHECK(conv.integers("stride") == Shape({2, 3}) && conv.integers("pad").empty());
    CHECK(tensors_used(program) == std::set<std::string>({"c", "w", "b"}));
    CHECK(program.find_input("x") == &program.instructions[0]);
    CHECK(program.find_input("z") == nullptr && program.find_output("c") != nullptr);
}

static void refuses_what_is_no_program() {
    CHECK(contains(refusal(""), "no output"));
    CHECK(contains(refusal("garbage"), "line 1: expected '%n = operator"));
    CHECK(contains(refusal("%0 = input f32[2 name=x"), "is no type"));
    CHECK(contains(refusal("%0 = input f32[2,x] name=x"), "is no type"));
    CHECK(contains(refusal("%0 = input f32[0] name=x"), "empty dimension"));
    CHECK(contains(refusal("%0 = input f32[2]"), "the attribute name is missing"));
    CHECK(contains(refusal("output y %0"), "a defined value"));
    CHECK(contains(refusal("%0 = input f32[2] name=x\noutput y %0\noutput y %0"),
                   "line 3: the output y comes twice"));
    CHECK(contains(refusal("%0 = input f32[2] name=x\n%1 = warp f32[2] %0\noutput y %1"),
                   "line 2, %1 = warp: this runtime has no such operator on the device"));
    CHECK(contains(refusal("%0 = input f32[2] name=x\n%1 = add f32[2] %0\noutput y %1"),
                   "it has 1 operands"));
}

static void keeps_the_prompt_length_symbolic() {
    ProgramTemplate program = parse_program("stage", "%0 = input f32[1,35+L,2] name=L\n"
                                                     "%1 = slice f32[1,-3+2*L,2] %0 dim=1 "
                                                     "start=L end=-3+3*L\n"
                                                     "%2 = reshape f32[6] %1 shape=[-6+4*L,1]\n"
                                                     "output y %2\n");
    CHECK(program.depends_on_prompt());
    Program at_4 = program.at(4);
    CHECK(at_4.instructions[0].shape == Shape({1, 39, 2}));
    CHECK(at_4.instructions[0].text("name") == "L");
    CHECK(at_4.instructions[1].shape == Shape({1, 5, 2}));
    CHECK(at_4.instructions[1].integer("start") == 4 && at_4.instructions[1].integer("end") == 9);
    CHECK(at_4.instructions[2].integers("shape") == Shape({10, 1}));
    CHECK(program.at(2).instructions[0].shape == Shape({1, 37, 2}));
    CHECK(to_string(program.sizes_of("%1")[1]) == "-3+2*L");
    CHECK(program.sizes_of("%2")[0].at(9) == 6);
    CHECK(contains(message_of<FileError>([&] { program.at(1); }),
                   "prompts of 1 tokens: line 2, %1: the shape [1,-1,2] has an empty"));
    CHECK(!parse_program("stage", "%0 = input f32[1] name=x\noutput y %0").depends_on_prompt());
}

static void parses_sizes() {
    Size size;
    CHECK(parse_size("L", size) && size.at(7) == 7 && to_string(size) == "L");
    CHECK(parse_size("-2*L", size) && size.at(7) == -14 && to_string(size) == "-2*L");
    CHECK(parse_size("5+-1*L", size) && size.at(7) == -2 && to_string(size) == "5+-1*L");
    CHECK(parse_size("-3+L", size) && size.at(7) == 4 && to_string(size) == "-3+L");
    CHECK(parse_size("12", size) && size.at(7) == 12 && to_string(size) == "12");
    for (const char* text : {"", "l", "L+1", "2L", "1+", "1+2", "2*", "L*2", "1-L", "1.5", "2*L+1",
                             "9000000000*L", "9000000000+L"}) {
        CHECK(!parse_size(text, size));
    }
    std::vector<Size> sizes;
    CHECK(parse_sizes("[1,35+L]", sizes) && shape_at(sizes, 2) == Shape({1, 37}));
    CHECK(parse_sizes("[]", sizes) && sizes.empty());
    CHECK(!parse_sizes("[1,x]", sizes) && !parse_sizes("1,2", sizes) && !parse_sizes("[,]", sizes));
}

static void reads_attributes_strictly() {
    Instruction instruction;
    instruction.attributes = {{"dim", "-1"},
                              {"half", "0.5"},
                              {"text", "abc"},
                              {"open", "9223372036854775807"},
                              {"least", "-1e300"}};
    CHECK(instruction.dimension("dim", 3) == 2);
    CHECK(instruction.integer("open") == INT64_MAX && instruction.integer("least") == INT64_MIN);
    CHECK(contains(message_of<FileError>([&] { instruction.integer("half"); }), "not an integer"));
    CHECK(contains(message_of<FileError>([&] { instruction.number("text"); }), "not a number"));
    CHECK(contains(message_of<FileError>([&] { instruction.integers("dim"); }), "not a list"));
    CHECK(contains(message_of<FileError>([&] { instruction.number("no"); }), "is missing"));
}

static void drops_unit_dimensions_above_rank_4() {
    Layout layout({1, 2, 1, 3, 4});
    CHECK(layout.fits() && layout.axis(0) == -1 && layout.axis(1) == 3 && layout.axis(4) == 0);
    CHECK(layout.extents({1, 2, 1, 3, 4}) == GgmlShape({4, 3, 1, 2}));
    CHECK(!Layout({2, 2, 2, 2, 2}).fits());
    Shape reached;
    CHECK(broadcast_shapes({3, 1}, {2, 1, 4}, reached) && reached == Shape({2, 3, 4}));
    CHECK(!broadcast_shapes({3}, {4}, reached));
}

int main() {
    parses_every_part_of_a_line();
    keeps_the_prompt_length_symbolic();
    parses_sizes();
    refuses_what_is_no_program();
    reads_attributes_strictly();
    drops_unit_dimensions_above_rank_4();
}
