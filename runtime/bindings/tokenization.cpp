#include "tokenization.h"

#include "inputs/prompt.h"
#include "tokenizer/tokenizer.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;
using namespace nb::literals;

namespace {

std::pair<std::vector<int64_t>, int64_t> prompt_tokens(const actquant::PromptSpec& spec,
                                                       const actquant::Tokenizer& tokenizer,
                                                       const std::string& task,
                                                       const std::vector<float>& state) {
    actquant::PromptTokens tokens = actquant::prompt_tokens(spec, tokenizer, task, state);
    return {std::move(tokens.ids), tokens.count};
}

void make_spec(actquant::PromptSpec* spec, const std::string& text_template,
               const std::vector<std::string>& task_steps, int64_t state_bins,
               const std::string& suffix, const std::vector<int64_t>& suffix_ids,
               int64_t min_length, int64_t max_length, int64_t pad_id) {
    new (spec) actquant::PromptSpec{text_template, task_steps, state_bins, min_length,
                                    max_length,    pad_id,     suffix,     suffix_ids};
    actquant::check_prompt(*spec);
}

} // namespace

void bind_tokenization(nb::module_& module) {
    nb::class_<actquant::Tokenizer>(module, "Tokenizer")
        .def(
            "__init__",
            [](actquant::Tokenizer* tokenizer, const std::string& json) {
                new (tokenizer) actquant::Tokenizer(json);
            },
            "tokenizer_json"_a, nb::call_guard<nb::gil_scoped_release>())
        .def(
            "encode",
            [](const actquant::Tokenizer& tokenizer, const std::string& text,
               bool add_special_tokens) { return tokenizer.encode(text, add_special_tokens); },
            "text"_a, "add_special_tokens"_a = true);
    nb::class_<actquant::PromptSpec>(module, "PromptSpec")
        .def("__init__", make_spec, "template"_a, "task_steps"_a, "state_bins"_a, "suffix"_a,
             "suffix_ids"_a, "min_length"_a, "max_length"_a, "pad_id"_a);
    module.def("render_prompt", &actquant::render_prompt, "spec"_a, "task"_a, "normalised_state"_a);
    module.def("prompt_tokens", prompt_tokens, "spec"_a, "tokenizer"_a, "task"_a,
               "normalised_state"_a);
}
