#include "tokenizer/split.h"

#include <algorithm>

namespace actquant {
namespace {

struct Part {
    Span span;
    bool is_match;
};

std::vector<Part> parts_of(size_t length, const std::vector<Span>& matches, bool inverted) {
    std::vector<Part> parts;
    size_t end = 0;
    for (const Span& match : matches) {
        if (match.begin > end) {
            parts.push_back({{end, match.begin}, inverted});
        }
        parts.push_back({match, !inverted});
        end = match.end;
    }
    if (end < length) {
        parts.push_back({{end, length}, inverted});
    }
    return parts;
}

// A match joins what is before it, unless that is a match too.
std::vector<Span> merge_with_previous(const std::vector<Part>& parts) {
    std::vector<Span> spans;
    bool after_match = false;
    for (const Part& part : parts) {
        if (part.is_match && !after_match && !spans.empty()) {
            spans.back().end = part.span.end;
        } else {
            spans.push_back(part.span);
        }
        after_match = part.is_match;
    }
    return spans;
}

std::vector<Span> merge_with_next(const std::vector<Part>& parts) {
    std::vector<Span> spans;
    bool before_match = false;
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
        if (part->is_match && !before_match && !spans.empty()) {
            spans.back().begin = part->span.begin;
        } else {
            spans.push_back(part->span);
        }
        before_match = part->is_match;
    }
    std::reverse(spans.begin(), spans.end());
    return spans;
}

std::vector<Span> merge_neighbours(const std::vector<Part>& parts) {
    std::vector<Span> spans;
    bool after_match = false;
    for (const Part& part : parts) {
        if (part.is_match == after_match && !spans.empty()) {
            spans.back().end = part.span.end;
        } else {
            spans.push_back(part.span);
        }
        after_match = part.is_match;
    }
    return spans;
}

} // namespace

std::vector<Span> split(size_t length, const std::vector<Span>& matches, SplitBehavior behavior,
                        bool inverted) {
    std::vector<Part> parts = parts_of(length, matches, inverted);
    switch (behavior) {
    case SplitBehavior::merged_with_previous:
        return merge_with_previous(parts);
    case SplitBehavior::merged_with_next:
        return merge_with_next(parts);
    case SplitBehavior::contiguous:
        return merge_neighbours(parts);
    case SplitBehavior::removed:
    case SplitBehavior::isolated:
        break;
    }
    std::vector<Span> spans;
    for (const Part& part : parts) {
        if (!part.is_match || behavior == SplitBehavior::isolated) {
            spans.push_back(part.span);
        }
    }
    return spans;
}

} // namespace actquant
