#pragma once

#include "common/error.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <optional>
#include <vector>

namespace actquant {

// What a post-processor puts around the tokens of a text: ids, and where nothing stands, the text.
using TokenTemplate = std::vector<std::optional<int64_t>>;

// From the value of "post_processor" in a tokenizer.json: templates to apply one after the other.
// What is unknown or wrong is added to `problems`.
std::vector<TokenTemplate> read_post_processor(const nlohmann::json& description,
                                               Problems& problems);
std::vector<int64_t> fill(const TokenTemplate& around, const std::vector<int64_t>& ids);

} // namespace actquant
