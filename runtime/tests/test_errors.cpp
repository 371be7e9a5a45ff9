#include "backend/ggml_guard.h"
#include "check.h"
#include "common/error.h"
#include "common/json_text.h"
#include "common/limits.h"

#include <ggml.h>

#include <memory>

using namespace actquant;

static void shows_no_control_characters() {
    CHECK(printable("plain ünïcode", 99) == "plain ünïcode");
    CHECK(printable("\x1b[2Ja\tb\x7f", 99) == "\\x1b[2Ja\\x09b\\x7f");
    CHECK(printable("a\xc2\x9b\xe2\x80\xae", 99) == "a\\x9b\\u202e");
    CHECK(printable("a\xff", 99) == "a\xef\xbf\xbd");
    CHECK(printable("two:\n  - one\nline", 99) == "two:\n  - one\\x0aline");
    CHECK(std::string(FileError("\x1b]0;title\x07").what()) == "\\x1b]0;title\\x07");
}

static void cuts_what_is_long() {
    std::string cut = printable(std::string(1 << 20, 'a'), 100);
    CHECK(cut.size() <= 100 && cut.ends_with("a …"));
    std::string wide;
    for (int k = 0; k < 100; k++) {
        wide += "ü";
    }
    CHECK(printable(wide, 51).ends_with("ü …") && printable(wide, 51).size() <= 51);
    CHECK(printable(wide, 200) == wide);
    Problems problems;
    for (int k = 0; k < 100000; k++) {
        problems.add(std::string(10000, 'x'));
    }
    std::string message = message_of<FileError>([&] { problems.throw_if_any("wrong:"); });
    CHECK(message.size() <= limits::message_bytes);
}

static void counts_what_is_not_told() {
    Problems problems;
    for (int k = 0; k < 100; k++) {
        problems.add("problem " + std::to_string(k));
    }
    std::string message = message_of<FileError>([&] { problems.throw_if_any("wrong:"); });
    CHECK(contains(message, "\n  - problem 15\n  - … and 84 more"));
}

static void knows_json() {
    CHECK(what_json_lacks(R"({"a": [1, -2.5, null, "b"]}  )").empty());
    CHECK(contains(what_json_lacks("{"), "it is no JSON"));
    CHECK(contains(what_json_lacks("[NaN]"), "it is no JSON"));
    std::string deep = std::string(64, '[') + std::string(64, ']');
    CHECK(what_json_lacks(deep).empty());
    CHECK(contains(what_json_lacks("[" + deep + "]"), "more than 64 deep"));
    CHECK(contains(what_json_lacks(std::string(1 << 20, '[')), "more than 64 deep"));
}

static void turns_assertions_of_ggml_into_errors() {
    std::unique_ptr<ggml_context, void (*)(ggml_context*)> ggml(ggml_init({1 << 16, nullptr, true}),
                                                                ggml_free);
    ggml_tensor* four = ggml_new_tensor_1d(ggml.get(), GGML_TYPE_F32, 4);
    GgmlGuard guard;
    std::string message = message_of<FileError>([&] { ggml_reshape_1d(ggml.get(), four, 3); });
    CHECK(contains(message, "ggml refuses it: ggml.c:"));
    CHECK(ggml_reshape_2d(ggml.get(), four, 2, 2)->ne[1] == 2);
}

int main() {
    shows_no_control_characters();
    cuts_what_is_long();
    counts_what_is_not_told();
    knows_json();
    turns_assertions_of_ggml_into_errors();
}
