#include "inputs/prompt.h"

#include "common/error.h"
#include "common/unicode.h"
#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <map>

namespace actquant {
namespace {

using TaskStep = std::u32string (*)(std::u32string_view);

template <char32_t From> std::u32string to_spaces(std::u32string_view text) {
    std::u32string result(text);
    std::replace(result.begin(), result.end(), From, U' ');
    return result;
}

const std::map<std::string, TaskStep> task_steps = {
    {"lower", lowercase},
    {"newlines_to_spaces", to_spaces<U'\n'>},
    {"strip", strip},
    {"underscores_to_spaces", to_spaces<U'_'>},
};

constexpr std::string_view task_field = "{task}";
constexpr std::string_view state_field = "{state}";

std::string prepare_task(const PromptSpec& spec, std::string_view task) {
    std::u32string text = from_utf8(task);
    for (const std::string& step : spec.task_steps) {
        text = task_steps.at(step)(text);
    }
    return to_utf8(text);
}

// numpy.digitize(state, numpy.linspace(-1, 1, bins + 1)[:-1]) - 1, which compares in f64.
std::string bin_numbers(int64_t bins, const std::vector<float>& state) {
    double width = 2.0 / static_cast<double>(bins);
    std::string result;
    for (float value : state) {
        int64_t count = 0;
        while (count < bins &&
               static_cast<double>(count) * width - 1 <= static_cast<double>(value)) {
            count++;
        }
        result += (result.empty() ? "" : " ") + std::to_string(count - 1);
    }
    return result;
}

bool ends_with(const std::vector<int64_t>& ids, const std::vector<int64_t>& end) {
    return ids.size() >= end.size() && std::equal(end.rbegin(), end.rend(), ids.rbegin());
}

std::vector<int64_t> finished(const PromptSpec& spec, const Tokenizer& tokenizer,
                              const std::vector<int64_t>& text_ids) {
    std::vector<int64_t> ids = tokenizer.add_special_tokens(text_ids);
    if (!ends_with(ids, spec.suffix_ids)) {
        ids.insert(ids.end(), spec.suffix_ids.begin(), spec.suffix_ids.end());
    }
    return ids;
}

} // namespace

void check_prompt(const PromptSpec& spec) {
    Problems problems;
    for (const std::string& step : spec.task_steps) {
        if (task_steps.count(step) == 0) {
            problems.add("actquant.prompt.task_steps has '" + step +
                         "'; there are lower, newlines_to_spaces, strip and "
                         "underscores_to_spaces");
        }
    }
    bool shows_state = spec.text_template.find(state_field) != std::string::npos;
    if (shows_state && spec.state_bins < 1) {
        problems.add("actquant.prompt.template has {state} but actquant.prompt.state_bins is 0");
    }
    problems.throw_if_any("the prompt cannot be made:");
}

std::string render_prompt(const PromptSpec& spec, std::string_view task,
                          const std::vector<float>& normalised_state) {
    std::string result;
    std::string_view rest = spec.text_template;
    while (!rest.empty()) {
        if (rest.starts_with(task_field)) {
            result += prepare_task(spec, task);
            rest.remove_prefix(task_field.size());
        } else if (rest.starts_with(state_field)) {
            result += bin_numbers(spec.state_bins, normalised_state);
            rest.remove_prefix(state_field.size());
        } else {
            result += rest[0];
            rest.remove_prefix(1);
        }
    }
    return result.ends_with(spec.suffix) ? result : result + spec.suffix;
}

PromptTokens prompt_tokens(const PromptSpec& spec, const Tokenizer& tokenizer,
                           std::string_view task, const std::vector<float>& normalised_state) {
    std::string text = render_prompt(spec, task, normalised_state);
    std::vector<int64_t> text_ids = tokenizer.encode(text, false);
    PromptTokens result;
    result.ids = finished(spec, tokenizer, text_ids);
    size_t most = static_cast<size_t>(spec.max_length), whole = text_ids.size();
    while (result.ids.size() > most && !text_ids.empty()) {
        text_ids.resize(text_ids.size() - std::min(text_ids.size(), result.ids.size() - most));
        result.ids = finished(spec, tokenizer, text_ids);
    }
    if (result.ids.size() > most) {
        throw FileError("actquant.tokenizer.max_length is " + std::to_string(most) +
                        ", less than the " + std::to_string(result.ids.size()) +
                        " tokens that every prompt has");
    }
    result.count = static_cast<int64_t>(result.ids.size());
    result.lost = static_cast<int64_t>(whole - text_ids.size());
    result.ids.resize(std::max({result.count, spec.min_length, int64_t(1)}), spec.pad_id);
    return result;
}

} // namespace actquant
