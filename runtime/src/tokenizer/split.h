#pragma once

#include "tokenizer/regex.h"

#include <string_view>
#include <vector>

namespace actquant {

// What becomes of the matches of a pattern at which a text is split.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

// The parts of a text of `length` code points that has these matches. With `inverted`, what is
// between the matches counts as the matches.
std::vector<Span> split(size_t length, const std::vector<Span>& matches, SplitBehavior behavior,
                        bool inverted = false);

// Each code point that satisfies the predicate is a match.
template <typename Predicate>
std::vector<Span> find_characters(std::u32string_view text, Predicate predicate) {
    std::vector<Span> matches;
    for (size_t k = 0; k < text.size(); k++) {
        if (predicate(text[k])) {
            matches.push_back({k, k + 1});
        }
    }
    return matches;
}

} // namespace actquant
