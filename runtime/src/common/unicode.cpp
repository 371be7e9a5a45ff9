#include "common/unicode.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <vector>

namespace actquant {
namespace {

struct Run {
    uint32_t first;
    uint8_t value;
};

struct Lowercase {
    uint32_t from;
    uint32_t to[2]; // the second is 0 for nearly all
};

struct Decomposition {
    uint32_t from;
    uint32_t to[4]; // filled up with 0
};

struct Composition {
    uint32_t first;
    uint32_t second;
    uint32_t result;
};

#include "unicode_tables.inc"

constexpr uint8_t cased = 1;
constexpr uint8_t case_ignorable = 2;

template <size_t Count> uint8_t value_at(const Run (&runs)[Count], char32_t c) {
    auto next = std::upper_bound(std::begin(runs), std::end(runs), c,
                                 [](char32_t x, const Run& run) { return x < run.first; });
    return std::prev(next)->value;
}

template <typename Row, size_t Count> const Row* row_of(const Row (&rows)[Count], char32_t c) {
    auto found = std::lower_bound(std::begin(rows), std::end(rows), c,
                                  [](const Row& row, char32_t x) { return row.from < x; });
    return found != std::end(rows) && found->from == c ? found : nullptr;
}

// Length of the valid UTF-8 sequence at the start of the text, 0 if there is none.
size_t sequence_length(std::string_view text) {
    auto byte = [&](size_t k) { return static_cast<uint8_t>(text[k]); };
    uint8_t lead = byte(0);
    size_t length = lead < 0x80                   ? 1
                    : lead >= 0xc2 && lead < 0xe0 ? 2
                    : lead >= 0xe0 && lead < 0xf0 ? 3
                    : lead >= 0xf0 && lead < 0xf5 ? 4
                                                  : 0;
    if (length == 0 || length > text.size()) {
        return 0;
    }
    for (size_t k = 1; k < length; k++) {
        if ((byte(k) & 0xc0) != 0x80) {
            return 0;
        }
    }
    // Overlong forms, surrogates, and what is above U+10FFFF.
    bool is_bad = (lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) >= 0xa0) ||
                  (lead == 0xf0 && byte(1) < 0x90) || (lead == 0xf4 && byte(1) >= 0x90);
    return is_bad ? 0 : length;
}

// Hangul syllables are composed by arithmetic (The Unicode Standard, section 3.12).
constexpr char32_t syllable_base = 0xac00, lead_base = 0x1100, vowel_base = 0x1161,
                   trail_base = 0x11a7;
constexpr char32_t lead_count = 19, vowel_count = 21, trail_count = 28;

void append_decomposed(std::u32string& text, char32_t c) {
    char32_t syllable = c - syllable_base;
    if (syllable < lead_count * vowel_count * trail_count) {
        text += lead_base + syllable / (vowel_count * trail_count);
        text += vowel_base + syllable / trail_count % vowel_count;
        if (syllable % trail_count != 0) {
            text += trail_base + syllable % trail_count;
        }
    } else if (const Decomposition* row = row_of(decomposition_rows, c)) {
        for (uint32_t part : row->to) {
            if (part != 0) {
                text += part;
            }
        }
    } else {
        text += c;
    }
}

// 0 if the two do not compose.
char32_t composed(char32_t first, char32_t second) {
    if (first - lead_base < lead_count && second - vowel_base < vowel_count) {
        return syllable_base +
               ((first - lead_base) * vowel_count + second - vowel_base) * trail_count;
    }
    char32_t syllable = first - syllable_base;
    if (syllable < lead_count * vowel_count * trail_count && syllable % trail_count == 0 &&
        second - trail_base - 1 < trail_count - 1) {
        return first + second - trail_base;
    }
    auto found = std::lower_bound(
        std::begin(composition_rows), std::end(composition_rows), std::pair(first, second),
        [](const Composition& row, const std::pair<char32_t, char32_t>& pair) {
            return std::pair<char32_t, char32_t>(row.first, row.second) < pair;
        });
    bool exists =
        found != std::end(composition_rows) && found->first == first && found->second == second;
    return exists ? found->result : 0;
}

std::u32string in_canonical_order(std::u32string_view text) {
    std::u32string result;
    for (char32_t c : text) {
        append_decomposed(result, c);
    }
    auto class_of = [](char32_t c) { return value_at(combining_class_runs, c); };
    for (auto start = result.begin(); start != result.end();) {
        if (class_of(*start) == 0) {
            ++start;
            continue;
        }
        auto end = std::find_if(start, result.end(), [&](char32_t c) { return class_of(c) == 0; });
        std::stable_sort(start, end,
                         [&](char32_t a, char32_t b) { return class_of(a) < class_of(b); });
        start = end;
    }
    return result;
}

// A final sigma follows a cased letter and precedes none, whatever ignorable is between.
bool is_final_sigma(std::u32string_view text, size_t place) {
    auto is_cased_first = [](auto begin, auto end) {
        auto found = std::find_if(
            begin, end, [](char32_t c) { return value_at(case_flag_runs, c) != case_ignorable; });
        return found != end && value_at(case_flag_runs, *found) == cased;
    };
    auto sigma = text.begin() + static_cast<std::ptrdiff_t>(place);
    return is_cased_first(std::make_reverse_iterator(sigma), text.rend()) &&
           !is_cased_first(sigma + 1, text.end());
}

} // namespace

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        size_t length = sequence_length(text);
        if (length == 0) {
            return false;
        }
        text.remove_prefix(length);
    }
    return true;
}

std::u32string from_utf8(std::string_view text) {
    std::u32string result;
    result.reserve(text.size());
    while (!text.empty()) {
        size_t length = sequence_length(text);
        if (length == 0) {
            result += U'\ufffd';
            text.remove_prefix(1);
            continue;
        }
        constexpr uint8_t lead_bits[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
        char32_t c = static_cast<uint8_t>(text[0]) & lead_bits[length];
        for (size_t k = 1; k < length; k++) {
            c = c << 6 | (static_cast<uint8_t>(text[k]) & 0x3f);
        }
        result += c;
        text.remove_prefix(length);
    }
    return result;
}

void append_utf8(std::string& text, char32_t c) {
    auto continuation = [&](int shift) { text += static_cast<char>(0x80 | (c >> shift & 0x3f)); };
    if (c < 0x80) {
        text += static_cast<char>(c);
    } else if (c < 0x800) {
        text += static_cast<char>(0xc0 | c >> 6);
        continuation(0);
    } else if (c < 0x10000) {
        text += static_cast<char>(0xe0 | c >> 12);
        continuation(6);
        continuation(0);
    } else {
        text += static_cast<char>(0xf0 | c >> 18);
        continuation(12);
        continuation(6);
        continuation(0);
    }
}

std::string to_utf8(std::u32string_view text) {
    std::string result;
    result.reserve(text.size());
    for (char32_t c : text) {
        append_utf8(result, c);
    }
    return result;
}

uint32_t category_bit(char32_t c) {
    static const std::array<uint32_t, 128> ascii = [] {
        std::array<uint32_t, 128> bits;
        for (char32_t k = 0; k < 128; k++) {
            bits[k] = 1u << value_at(category_runs, k);
        }
        return bits;
    }();
    return c < 128 ? ascii[c] : 1u << value_at(category_runs, c);
}

uint32_t category_mask(std::string_view name) {
    uint32_t mask = 0;
    for (size_t k = 0; k < std::size(category_names); k++) {
        std::string_view category = category_names[k];
        if (category == name || (name.size() == 1 && category[0] == name[0])) {
            mask |= 1u << k;
        }
    }
    return mask;
}

bool is_white_space(char32_t c) {
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

bool is_word(char32_t c) {
    static const uint32_t mask = category_mask("L") | category_mask("M") | category_mask("Nd") |
                                 category_mask("Nl") | category_mask("Pc");
    // Circled and squared letters are alphabetic though no letters by category.
    bool is_enclosed_letter = (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
                              (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
    bool is_joiner = c == 0x200c || c == 0x200d;
    return (category_bit(c) & mask) != 0 || is_enclosed_letter || is_joiner;
}

bool is_numeric(char32_t c) {
    static const uint32_t mask = category_mask("N");
    return (category_bit(c) & mask) != 0;
}

void append_lowercase(std::u32string& text, char32_t c) {
    if (const Lowercase* row = row_of(lowercase_rows, c)) {
        text += row->to[0];
        if (row->to[1] != 0) {
            text += row->to[1];
        }
    } else {
        text += c;
    }
}

std::u32string lowercase(std::u32string_view text) {
    std::u32string result;
    for (size_t k = 0; k < text.size(); k++) {
        if (text[k] == U'Σ' && is_final_sigma(text, k)) {
            result += U'ς';
        } else {
            append_lowercase(result, text[k]);
        }
    }
    return result;
}

std::u32string strip(std::u32string_view text) {
    // Python counts the four separators of ASCII as white space; the property does not.
    auto is_space = [](char32_t c) { return is_white_space(c) || (c >= 0x1c && c <= 0x1f); };
    while (!text.empty() && is_space(text.front())) {
        text.remove_prefix(1);
    }
    while (!text.empty() && is_space(text.back())) {
        text.remove_suffix(1);
    }
    return std::u32string(text);
}

std::u32string compose(std::u32string_view text) {
    // Nothing below U+0300 changes.
    if (std::all_of(text.begin(), text.end(), [](char32_t c) { return c < 0x300; })) {
        return std::u32string(text);
    }
    std::u32string result;
    size_t starter = std::u32string::npos;
    int previous_class = -1; // of what stands between the starter and here
    for (char32_t c : in_canonical_order(text)) {
        int combining_class = value_at(combining_class_runs, c);
        bool is_free = previous_class < combining_class;
        if (starter != std::u32string::npos && is_free) {
            if (char32_t whole = composed(result[starter], c)) {
                result[starter] = whole;
                continue;
            }
        }
        if (combining_class == 0) {
            starter = result.size();
            previous_class = -1;
        } else {
            previous_class = combining_class;
        }
        result += c;
    }
    return result;
}

} // namespace actquant
