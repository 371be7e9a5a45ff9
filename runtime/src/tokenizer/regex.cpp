#include "tokenizer/regex.h"

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
    if (has_uninverted('k')) {
        add(0x212a, 0x212a);
    }
    if (has_uninverted('s')) {
        add(0x17f, 0x17f);
    }
}

bool CodePointSet::has(char32_t c) const {
    return has_uninverted(c) != inverted;
}

bool CodePointSet::has_uninverted(char32_t c) const {
    for (const Range& range : ranges) {
        if (c >= range.first && c <= range.last) {
            return true;
        }
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

std::vector<Span> Regex::find_all(std::u32string_view text) const {
    std::vector<Span> matches;
    for (size_t place = 0; place <= text.size();) {
        size_t end = run(0, text, place);
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

size_t Regex::run(size_t start, std::u32string_view text, size_t place) const {
    struct Choice {
        size_t at;
        size_t place;
    };
    std::vector<Choice> choices; // what is still to be tried, on the heap: texts may be long
    size_t at = start;
    while (true) {
        const Instruction& instruction = code[at];
        bool goes_on = true;
        switch (instruction.op) {
        case Op::accept:
            return place;
        case Op::set:
            goes_on = place < text.size() && sets[instruction.argument].has(text[place]);
            place++;
            at++;
            break;
        case Op::split:
            choices.push_back({at + instruction.second, place});
            at += instruction.first;
            break;
        case Op::jump:
            at += instruction.first;
            break;
        case Op::look:
            goes_on =
                (run(at + 1, text, place) == std::u32string_view::npos) == instruction.inverted;
            at += instruction.first;
            break;
        case Op::atomic: {
            size_t end = run(at + 1, text, place);
            goes_on = end != std::u32string_view::npos;
            place = end;
            at += instruction.first;
            break;
        }
        case Op::word_edge:
        case Op::line_begin:
        case Op::line_end:
            goes_on = holds(instruction, text, place);
            at++;
            break;
        }
        if (!goes_on) {
            if (choices.empty()) {
                return std::u32string_view::npos;
            }
            at = choices.back().at;
            place = choices.back().place;
            choices.pop_back();
        }
    }
}

} // namespace actquant
