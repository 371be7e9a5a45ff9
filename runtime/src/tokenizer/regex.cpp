#include "tokenizer/regex.h"

#include "common/error.h"
#include "common/limits.h"
#include "common/unicode.h"
#include "tokenizer/regex_parser.h"

#include <algorithm>

namespace actquant {
namespace {

// Oniguruma's \w has no joiners, and the numbers among Latin-1's symbols.
bool is_regex_word(char32_t c) {
    bool is_joiner = c == 0x200c || c == 0x200d;
    bool is_latin_number = c < 0x100 && is_numeric(c);
    return (is_word(c) && !is_joiner) || is_latin_number;
}

} // namespace

void CodePointSet::ignore_case() {
    auto add_other_case = [this](char32_t first, char32_t last, int32_t shift) {
        size_t count = ranges.size();
        for (size_t k = 0; k < count; k++) {
            char32_t low = std::max(ranges[k].first, first);
            char32_t high = std::min(ranges[k].last, last);
            if (low <= high) {
                add(low + shift, high + shift);
            }
        }
    };
    add_other_case('a', 'z', 'A' - 'a');
    add_other_case('A', 'Z', 'a' - 'A');
    // The only others whose case folding is an ASCII letter: the Kelvin sign and the long s.
    finish();
    bool has_k = has_uninverted('k');
    bool has_s = has_uninverted('s');
    if (has_k) {
        add(0x212a, 0x212a);
    }
    if (has_s) {
        add(0x17f, 0x17f);
    }
}

void CodePointSet::finish() {
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return a.first < b.first; });
    size_t kept = 0;
    for (const Range& range : ranges) {
        if (kept > 0 && range.first <= ranges[kept - 1].last) {
            ranges[kept - 1].last = std::max(ranges[kept - 1].last, range.last);
        } else {
            ranges[kept++] = range;
        }
    }
    ranges.resize(kept);
}

bool CodePointSet::has(char32_t c) const {
    return has_uninverted(c) != inverted;
}

bool CodePointSet::has_uninverted(char32_t c) const {
    auto after = std::upper_bound(ranges.begin(), ranges.end(), c,
                                  [](char32_t x, const Range& range) { return x < range.first; });
    if (after != ranges.begin() && c <= std::prev(after)->last) {
        return true;
    }
    if (categories != 0 && (category_bit(c) & categories) != 0) {
        return true;
    }
    if ((white_space || not_white_space) && (is_white_space(c) ? white_space : not_white_space)) {
        return true;
    }
    return (words || not_words) && (is_regex_word(c) ? words : not_words);
}

Regex::Regex(const std::string& pattern) {
    RegexParser(pattern, *this).parse();
}

// One walk through a text.
class Regex::Search {
  public:
    Search(const Regex& regex, std::u32string_view text)
        : regex(regex), text(text), tried(regex.choices * (text.size() + 1)) {}

    size_t run(size_t place) { return run({0, 0, regex.choices}, place); }

  private:
    static constexpr size_t none = std::u32string_view::npos;

    // Code up to an `accept`, and the choices in it.
    struct Part {
        size_t start;
        size_t first_choice;
        size_t end_choice;
    };

    static Part part_of(const Instruction& outer, size_t at) {
        return {at + 1, outer.argument, static_cast<size_t>(outer.second)};
    }

    // The end of the match that begins at `place`, or none.
    size_t run(const Part& part, size_t place);

    // Whether it was not tried yet at this place, where it then failed.
    bool try_choice(const Instruction& split, size_t place) {
        std::vector<bool>::reference was_tried = tried[place * regex.choices + split.argument];
        bool is_new = !was_tried;
        was_tried = true;
        return is_new;
    }

    // What led to a match may do so again.
    void forget(const Part& part, size_t first, size_t last) {
        for (size_t place = first; place <= last; place++) {
            auto row = tried.begin() + static_cast<std::ptrdiff_t>(place * regex.choices);
            std::fill(row + static_cast<std::ptrdiff_t>(part.first_choice),
                      row + static_cast<std::ptrdiff_t>(part.end_choice), false);
        }
    }

    const Regex& regex;
    std::u32string_view text;
    std::vector<bool> tried; // of each place, the choices
    uint64_t steps = 0;
};

std::vector<Span> Regex::find_all(std::u32string_view text) const {
    std::vector<Span> matches;
    Search search(*this, text);
    for (size_t place = 0; place <= text.size();) {
        size_t end = search.run(place);
        if (end == std::u32string_view::npos) {
            place++;
        } else if (end > place) {
            matches.push_back({place, end});
            place = end;
        } else {
            bool touches_last = !matches.empty() && matches.back().end == place;
            if (!touches_last) {
                matches.push_back({place, place});
            }
            place++;
        }
    }
    return matches;
}

bool Regex::holds(const Instruction& assertion, std::u32string_view text, size_t place) const {
    switch (assertion.op) {
    case Op::line_begin:
        return place == 0 || text[place - 1] == '\n';
    case Op::line_end:
        return place == text.size() || text[place] == '\n';
    default: {
        bool before = place > 0 && is_regex_word(text[place - 1]);
        bool after = place < text.size() && is_regex_word(text[place]);
        return (before != after) != assertion.inverted;
    }
    }
}

size_t Regex::Search::run(const Part& part, size_t first) {
    struct Choice {
        size_t at;
        size_t place;
    };
    std::vector<Choice> choices; // what is still to be tried, on the heap: texts may be long
    size_t at = part.start;
    size_t place = first;
    while (true) {
        if (++steps > limits::pattern_steps) {
            throw FileError("a regular expression takes more than " +
                            std::to_string(limits::pattern_steps) + " steps for a text of " +
                            std::to_string(text.size()) + " characters");
        }
        const Instruction& instruction = regex.code[at];
        bool goes_on = true;
        switch (instruction.op) {
        case Op::accept:
            forget(part, first, place);
            return place;
        case Op::set:
            goes_on = place < text.size() && regex.sets[instruction.argument].has(text[place]);
            place++;
            at++;
            break;
        case Op::split:
            goes_on = try_choice(instruction, place);
            if (goes_on) {
                choices.push_back({at + instruction.second, place});
            }
            at += instruction.first;
            break;
        case Op::jump:
            at += instruction.first;
            break;
        case Op::look:
            goes_on = (run(part_of(instruction, at), place) == none) == instruction.inverted;
            at += instruction.first;
            break;
        case Op::atomic: {
            size_t end = run(part_of(instruction, at), place);
            goes_on = end != none;
            place = end;
            at += instruction.first;
            break;
        }
        case Op::word_edge:
        case Op::line_begin:
        case Op::line_end:
            goes_on = regex.holds(instruction, text, place);
            at++;
            break;
        }
        if (!goes_on) {
            if (choices.empty()) {
                return none;
            }
            at = choices.back().at;
            place = choices.back().place;
            choices.pop_back();
        }
    }
}

} // namespace actquant
