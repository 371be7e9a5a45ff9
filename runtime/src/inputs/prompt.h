#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace actquant {

class Tokenizer;

// How a task and a state become the policy's tokens (docs/format.md, keys actquant.prompt.* and
// actquant.tokenizer.*).
struct PromptSpec {
    std::string text_template; // {task} and {state} are replaced
    std::vector<std::string> task_steps;
    int64_t state_bins = 0;
    int64_t min_length = 0;
    int64_t max_length = 0;
    int64_t pad_id = 0;
    std::string suffix;
    std::vector<int64_t> suffix_ids;
};

struct PromptTokens {
    std::vector<int64_t> ids; // min_length to max_length, at least 1
    int64_t count = 0;        // of those that are no padding, which come first
    int64_t lost = 0;         // tokens of the text for which there was no room
};

// Throws FileError with every step that is unknown, and with a {state} without state_bins.
void check_prompt(const PromptSpec& spec);

// The prompt's text, with its suffix. The state is normalised and without padding.
std::string render_prompt(const PromptSpec& spec, std::string_view task,
                          const std::vector<float>& normalised_state);

// A text that is too long loses tokens at its end, never the special tokens and suffix_ids.
PromptTokens prompt_tokens(const PromptSpec& spec, const Tokenizer& tokenizer,
                           std::string_view task, const std::vector<float>& normalised_state);

} // namespace actquant
