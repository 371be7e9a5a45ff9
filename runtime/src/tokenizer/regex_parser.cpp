#include "tokenizer/regex_parser.h"

#include "common/error.h"
#include "common/limits.h"
#include "common/unicode.h"

#include <algorithm>

namespace actquant {
namespace {

constexpr size_t unbounded = std::u32string::npos;
constexpr size_t most_repetitions = 1000;

} // namespace

RegexParser::RegexParser(const std::string& pattern, Regex& regex)
    : source(pattern), pattern(from_utf8(pattern)), regex(regex) {
    if (this->pattern.size() > limits::pattern_characters) {
        fail("it has more than " + std::to_string(limits::pattern_characters) + " characters");
    }
}

void RegexParser::parse() {
    Fragment all = parse_alternatives();
    if (!at_end()) {
        fail("there is a ')' too many");
    }
    all.code.push_back({Op::accept});
    regex.code = std::move(all.code);
    number_choices();
}

void RegexParser::number_choices() {
    std::vector<uint32_t> before(regex.code.size() + 1, 0);
    for (size_t k = 0; k < regex.code.size(); k++) {
        before[k + 1] = before[k] + (regex.code[k].op == Op::split);
    }
    for (size_t k = 0; k < regex.code.size(); k++) {
        Instruction& instruction = regex.code[k];
        if (instruction.op == Op::split) {
            instruction.argument = before[k];
        } else if (instruction.op == Op::look || instruction.op == Op::atomic) {
            instruction.argument = before[k];
            instruction.second = static_cast<int32_t>(before[k + instruction.first]);
        }
    }
    regex.choices = before.back();
}

void RegexParser::check_size(size_t instructions) const {
    if (instructions > limits::pattern_code) {
        fail("it becomes more than " + std::to_string(limits::pattern_code) + " instructions");
    }
}

RegexParser::Fragment RegexParser::parse_alternatives() {
    std::vector<Fragment> alternatives = {parse_sequence()};
    size_t left = alternatives.back().code.size();
    while (take("|")) {
        alternatives.push_back(parse_sequence());
        left += alternatives.back().code.size() + 2; // a split and a jump
        check_size(left);
    }
    Fragment result;
    size_t least = alternatives.back().least;
    for (const Fragment& alternative : alternatives) {
        least = std::min(least, alternative.least);
        left -= alternative.code.size();
        if (&alternative != &alternatives.back()) {
            left -= 2;
            int32_t size = static_cast<int32_t>(alternative.code.size());
            result.code.push_back({Op::split, false, 1, size + 2});
            append(result, alternative);
            result.code.push_back({Op::jump, false, static_cast<int32_t>(left) + 1});
        } else {
            append(result, alternative);
        }
    }
    result.least = least;
    return result;
}

RegexParser::Fragment RegexParser::parse_sequence() {
    Fragment result;
    while (!at_end() && peek() != '|' && peek() != ')') {
        append(result, parse_repetition(parse_atom()));
    }
    return result;
}

RegexParser::Fragment RegexParser::parse_atom() {
    if (take("(")) {
        return parse_group();
    }
    if (take("[")) {
        return fragment_of(parse_set());
    }
    if (take("\\")) {
        return parse_escape();
    }
    if (take("^")) {
        return assertion(Op::line_begin, false);
    }
    if (take("$")) {
        return assertion(Op::line_end, false);
    }
    CodePointSet set;
    if (take(".")) {
        set.add('\n', '\n');
        set.invert();
    } else {
        char32_t c = next();
        if (c == '*' || c == '+' || c == '?') {
            fail("there is nothing to repeat");
        }
        set.add(c, c);
    }
    return fragment_of(std::move(set));
}

RegexParser::Fragment RegexParser::parse_group() {
    if (++depth > limits::pattern_depth) {
        fail("its groups are nested more than " + std::to_string(limits::pattern_depth) + " deep");
    }
    bool outer_case = ignores_case;
    Op op = Op::accept; // none
    bool inverted = false;
    if (take("?i:")) {
        ignores_case = true;
    } else if (take("?=")) {
        op = Op::look;
    } else if (take("?!")) {
        op = Op::look;
        inverted = true;
    } else if (take("?>")) {
        op = Op::atomic;
    } else if (!take("?:") && peek() == '?') {
        fail("only the groups (…), (?:…), (?i:…), (?=…), (?!…) and (?>…) are supported");
    }
    Fragment inner = parse_alternatives();
    if (!take(")")) {
        fail("a group is not closed");
    }
    depth--;
    ignores_case = outer_case;
    return op == Op::accept ? inner : wrapped(op, std::move(inner), inverted);
}

RegexParser::Fragment RegexParser::parse_escape() {
    if (take("b")) {
        return assertion(Op::word_edge, false);
    }
    if (take("B")) {
        return assertion(Op::word_edge, true);
    }
    CodePointSet set;
    char32_t c = 0;
    if (add_escape(set, c)) {
        set.add(c, c);
    }
    return fragment_of(std::move(set));
}

RegexParser::Fragment RegexParser::parse_repetition(Fragment atom) {
    Bounds bounds{};
    while (parse_bounds(bounds)) {
        bool has_braces = pattern[place - 1] == '}';
        bool is_lazy = take("?");
        // After braces, a plus is one more repetition.
        bool is_possessive = !is_lazy && !has_braces && take("+");
        if (is_lazy && has_braces) {
            fail("braces cannot be lazy");
        }
        if (bounds.most == unbounded && atom.least == 0) {
            fail("what may be empty is repeated without bound");
        }
        atom = repeated(atom, bounds, is_lazy);
        if (is_possessive) {
            atom = wrapped(Op::atomic, std::move(atom), false);
        }
    }
    return atom;
}

bool RegexParser::parse_bounds(Bounds& bounds) {
    if (take("*")) {
        bounds = {0, unbounded};
    } else if (take("+")) {
        bounds = {1, unbounded};
    } else if (take("?")) {
        bounds = {0, 1};
    } else if (take("{")) {
        auto number = [this](size_t otherwise) {
            size_t value = 0;
            size_t start = place;
            while (peek() >= '0' && peek() <= '9' && value <= most_repetitions) {
                value = 10 * value + (next() - '0');
            }
            return place == start ? otherwise : value;
        };
        bounds.least = number(0);
        bounds.most = take(",") ? number(unbounded) : bounds.least;
        bool fits = bounds.least <= most_repetitions &&
                    (bounds.most == unbounded || bounds.most <= most_repetitions);
        if (!take("}") || bounds.most < bounds.least || !fits) {
            fail("the bounds in braces are wrong");
        }
    } else {
        return false;
    }
    return true;
}

CodePointSet RegexParser::parse_set() {
    CodePointSet set;
    bool inverted = take("^");
    for (bool is_first = true; is_first || peek() != ']'; is_first = false) {
        if (at_end()) {
            fail("a set is not closed");
        }
        if (peek() == '[' || (peek() == '&' && pattern.compare(place, 2, U"&&") == 0)) {
            fail("sets in sets are not supported");
        }
        char32_t first = 0;
        if (take("\\")) {
            if (!add_escape(set, first)) {
                continue;
            }
        } else {
            first = next();
        }
        char32_t last = first;
        if (peek() == '-' && place + 1 < pattern.size() && pattern[place + 1] != ']') {
            next();
            last = next();
            CodePointSet ignored;
            if (last == '\\' && !add_escape(ignored, last)) {
                fail("a range ends with a class");
            }
        }
        if (last < first) {
            fail("a range is empty");
        }
        set.add(first, last);
    }
    next();
    if (inverted) {
        set.invert();
    }
    return set;
}

bool RegexParser::add_escape(CodePointSet& set, char32_t& c) {
    char32_t name = next();
    switch (name) {
    case 's':
    case 'S':
        set.add_white_space(name == 'S');
        return false;
    case 'w':
    case 'W':
        set.add_words(name == 'W');
        return false;
    case 'd':
    case 'D': {
        uint32_t digits = category_mask("Nd");
        set.add_categories(name == 'd' ? digits : ~digits);
        return false;
    }
    case 'p':
    case 'P':
        add_property(set, name == 'P');
        return false;
    case 'n':
        c = '\n';
        return true;
    case 'r':
        c = '\r';
        return true;
    case 't':
        c = '\t';
        return true;
    case 'f':
        c = '\f';
        return true;
    case 'v':
        c = '\v';
        return true;
    case 'x':
    case 'u':
        place--;
        c = parse_hex();
        return true;
    default:
        if (name < 128 && is_word(name) && name != '_') {
            fail("the escape \\" + to_utf8(std::u32string(1, name)) + " is not supported");
        }
        c = name;
        return true;
    }
}

void RegexParser::add_property(CodePointSet& set, bool inverted) {
    if (!take("{")) {
        fail("\\p needs {…}");
    }
    inverted = take("^") != inverted;
    std::string name;
    while (peek() != '}') {
        append_utf8(name, next());
    }
    next();
    uint32_t mask = category_mask(name);
    if (mask == 0) {
        fail("\\p{" + name + "} is no general category");
    }
    set.add_categories(inverted ? ~mask : mask);
}

char32_t RegexParser::parse_hex() {
    bool is_u = next() == 'u';
    bool has_braces = !is_u && take("{");
    size_t most = is_u ? 4 : has_braces ? 8 : 2;
    char32_t value = 0;
    size_t count = 0;
    for (; count < most; count++) {
        char32_t c = peek();
        char32_t lower = c | 0x20;
        if (c >= '0' && c <= '9') {
            value = 16 * value + (c - '0');
        } else if (lower >= 'a' && lower <= 'f') {
            value = 16 * value + (lower - 'a' + 10);
        } else {
            break;
        }
        next();
    }
    if (count == 0 || (is_u && count != 4) || (has_braces && !take("}")) || value > 0x10ffff) {
        fail("a hexadecimal escape is wrong");
    }
    return value;
}

RegexParser::Fragment RegexParser::repeated(const Fragment& atom, Bounds bounds,
                                            bool is_lazy) const {
    // Each bound is at most `most_repetitions` and the atom at most a whole pattern.
    size_t copies =
        std::max(bounds.least, bounds.most == unbounded ? bounds.least + 1 : bounds.most);
    check_size(copies * (atom.code.size() + 2));
    int32_t size = static_cast<int32_t>(atom.code.size());
    auto split = [is_lazy](int32_t inside, int32_t outside) {
        return is_lazy ? Instruction{Op::split, false, outside, inside}
                       : Instruction{Op::split, false, inside, outside};
    };
    Fragment result;
    for (size_t k = 0; k < bounds.least; k++) {
        append(result, atom);
    }
    if (bounds.most == unbounded) {
        result.code.push_back(split(1, size + 2));
        append(result, atom);
        result.code.push_back({Op::jump, false, -(size + 1)});
    } else {
        for (size_t left = bounds.most - bounds.least; left > 0; left--) {
            int32_t to_end = static_cast<int32_t>(left) * (size + 1);
            result.code.push_back(split(1, to_end));
            append(result, atom);
        }
    }
    result.least = atom.least * bounds.least;
    return result;
}

RegexParser::Fragment RegexParser::wrapped(Op op, Fragment inner, bool inverted) const {
    Fragment result;
    result.code.push_back({op, inverted, static_cast<int32_t>(inner.code.size()) + 2});
    append(result, inner);
    result.code.push_back({Op::accept});
    result.least = op == Op::look ? 0 : inner.least;
    return result;
}

RegexParser::Fragment RegexParser::fragment_of(CodePointSet set) {
    if (ignores_case) {
        set.ignore_case();
    }
    set.finish();
    Fragment result;
    result.code.push_back({Op::set, false, 0, 0, static_cast<uint32_t>(regex.sets.size())});
    result.least = 1;
    regex.sets.push_back(std::move(set));
    return result;
}

RegexParser::Fragment RegexParser::assertion(Op op, bool inverted) const {
    Fragment result;
    result.code.push_back({op, inverted});
    return result;
}

void RegexParser::append(Fragment& target, const Fragment& more) const {
    check_size(target.code.size() + more.code.size());
    target.code.insert(target.code.end(), more.code.begin(), more.code.end());
    target.least += more.least;
}

bool RegexParser::take(std::string_view text) {
    for (size_t k = 0; k < text.size(); k++) {
        if (place + k >= pattern.size() ||
            pattern[place + k] != static_cast<char32_t>(static_cast<unsigned char>(text[k]))) {
            return false;
        }
    }
    place += text.size();
    return true;
}

char32_t RegexParser::next() {
    if (at_end()) {
        fail("it ends too early");
    }
    return pattern[place++];
}

void RegexParser::fail(const std::string& reason) const {
    constexpr size_t shown = 200;
    std::string head = source.substr(0, shown) + (source.size() > shown ? "…" : "");
    throw FileError("the regular expression '" + head + "': " + reason);
}

} // namespace actquant
