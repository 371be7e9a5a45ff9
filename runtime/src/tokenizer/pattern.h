#pragma once

#include "tokenizer/regex.h"

#include <nlohmann/json_fwd.hpp>

#include <memory>

namespace actquant {

// {"String": …} or {"Regex": …} of a tokenizer.json.
class Pattern {
  public:
    explicit Pattern(const nlohmann::json& description);

    std::vector<Span> find_all(std::u32string_view text) const;

  private:
    std::u32string literal;
    std::shared_ptr<const Regex> regex; // null: the literal
};

} // namespace actquant
