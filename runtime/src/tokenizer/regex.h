#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace actquant {

struct Span {
    size_t begin;
    size_t end;
};

// A set of code points: ranges, general categories and the classes \s, \w.
class CodePointSet {
  public:
    void add(char32_t first, char32_t last) { ranges.push_back({first, last}); }
    void add_categories(uint32_t mask) { categories |= mask; }
    void add_white_space(bool inverted) { (inverted ? not_white_space : white_space) = true; }
    void add_words(bool inverted) { (inverted ? not_words : words) = true; }
    void invert() { inverted = !inverted; }
    // Adds the other case of the ASCII letters it contains.
    void ignore_case();
    // Puts the ranges in order, after which `has` finds one quickly.
    void finish();
    bool has(char32_t c) const;

  private:
    struct Range {
        char32_t first;
        char32_t last;
    };

    bool has_uninverted(char32_t c) const;

    std::vector<Range> ranges;
    uint32_t categories = 0;
    bool white_space = false, not_white_space = false, words = false, not_words = false;
    bool inverted = false;
};

// The part of Oniguruma's regular expressions that tokenizers are written in, on code points:
// alternatives, groups (?:…) (?i:…) (?>…) (?=…) (?!…), sets with \p{…} \s \w \d, and greedy, lazy
// and possessive repetition. The first alternative that leads to a match wins (backtracking). No
// choice is tried twice at one place of a text, so that time is bounded by the sizes of pattern and
// text, not by the number of ways through them.
class Regex {
  public:
    // Throws FileError if the pattern is wrong or outside that part.
    explicit Regex(const std::string& pattern);

    // All matches that do not overlap, from left to right. Throws FileError where that takes more
    // than limits::pattern_steps, which only a pattern that looks far ahead at every place does.
    std::vector<Span> find_all(std::u32string_view text) const;

  private:
    friend class RegexParser;

    enum class Op : uint8_t {
        set,        // the next code point is in sets[argument]
        split,      // goes on at `first`, on failure at `second` (both relative)
        jump,       // by `first`
        look,       // the code up to `accept` matches here, or does not if `inverted`
        atomic,     // the code up to `accept` matches; it is not tried in another way
        word_edge,  // \b, or \B if `inverted`
        line_begin, // ^
        line_end,   // $
        accept,
    };
    struct Instruction {
        Op op;
        bool inverted = false;
        int32_t first = 0; // for look and atomic: where it goes on after the inner code
        int32_t second = 0;
        // Of set: which; of split: its number among the choices; of look and atomic: the number of
        // the first choice in the inner code, and `second` one behind the last.
        uint32_t argument = 0;
    };
    class Search;

    bool holds(const Instruction& assertion, std::u32string_view text, size_t place) const;

    std::vector<Instruction> code;
    std::vector<CodePointSet> sets;
    size_t choices = 0; // instructions that are a split
};

} // namespace actquant
