#pragma once

#include "tokenizer/regex.h"

namespace actquant {

// Compiles a pattern into a Regex, by recursive descent.
class RegexParser {
  public:
    RegexParser(const std::string& pattern, Regex& regex);

    void parse();

  private:
    using Op = Regex::Op;
    using Instruction = Regex::Instruction;

    // Code with relative jumps, and the fewest code points it consumes.
    struct Fragment {
        std::vector<Instruction> code;
        size_t least = 0;
    };
    struct Bounds {
        size_t least;
        size_t most; // unbounded: npos
    };

    Fragment parse_alternatives();
    void number_choices();
    // Refuses code of more instructions than a pattern may become, before it is made.
    void check_size(size_t instructions) const;
    Fragment parse_sequence();
    Fragment parse_atom();
    Fragment parse_group();
    Fragment parse_escape();
    Fragment parse_repetition(Fragment atom);
    bool parse_bounds(Bounds& bounds);
    CodePointSet parse_set();
    // Adds what an escape like \s, \p{L} or \x41 stands for; gives the code point if it is one.
    bool add_escape(CodePointSet& set, char32_t& c);
    void add_property(CodePointSet& set, bool inverted);
    char32_t parse_hex();

    Fragment repeated(const Fragment& atom, Bounds bounds, bool is_lazy) const;
    Fragment wrapped(Op op, Fragment inner, bool inverted) const;
    Fragment fragment_of(CodePointSet set);
    Fragment assertion(Op op, bool inverted) const;
    void append(Fragment& target, const Fragment& more) const;

    bool at_end() const { return place == pattern.size(); }
    char32_t peek() const { return at_end() ? 0 : pattern[place]; }
    bool take(std::string_view text);
    char32_t next();
    [[noreturn]] void fail(const std::string& reason) const;

    std::string source;
    std::u32string pattern;
    size_t place = 0;
    size_t depth = 0; // of groups
    bool ignores_case = false;
    Regex& regex;
};

} // namespace actquant
