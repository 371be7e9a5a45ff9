#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace actquant {

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

} // namespace actquant
