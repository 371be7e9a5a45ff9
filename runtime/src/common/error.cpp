#include "common/error.h"

#include "common/limits.h"
#include "common/unicode.h"

#include <cstdio>
#include <string_view>

namespace actquant {
namespace {

constexpr std::string_view list_item = "\n  - ";

// Also those that change the direction of what follows.
bool is_control(char32_t c) {
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x200e || c == 0x200f ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

void append_escaped(std::string& text, char32_t c) {
    char escape[16];
    std::snprintf(escape, sizeof escape, c < 0x100 ? "\\x%02x" : "\\u%04x",
                  static_cast<unsigned>(c));
    text += escape;
}

} // namespace

std::string printable(const std::string& text, size_t most) {
    constexpr std::string_view cut = " …";
    // No character becomes shorter: what is beyond would be cut anyway.
    std::u32string characters = from_utf8(std::string_view(text).substr(0, most + 1));
    std::string result;
    for (size_t k = 0; k < characters.size(); k++) {
        size_t before = result.size();
        bool breaks = characters[k] == '\n' &&
                      characters.compare(k, list_item.size(), from_utf8(list_item)) == 0;
        if (is_control(characters[k]) && !breaks) {
            append_escaped(result, characters[k]);
        } else {
            append_utf8(result, characters[k]);
        }
        if (result.size() > most) {
            result.resize(before);
            auto is_continued = [&] { return (result.back() & 0xc0) == 0x80; };
            while (!result.empty() && (result.size() + cut.size() > most)) {
                while (is_continued()) {
                    result.pop_back();
                }
                result.pop_back();
            }
            return result.append(cut);
        }
    }
    return result;
}

Error::Error(const std::string& message)
    : std::runtime_error(printable(message, limits::message_bytes)) {}

void Problems::add(const std::string& problem) {
    if (count++ < limits::problems) {
        lines.push_back(printable(problem, limits::problem_bytes));
    }
}

void Problems::throw_if_any(const std::string& headline) const {
    if (count == 0) {
        return;
    }
    std::string text = headline;
    for (const std::string& line : lines) {
        text.append(list_item).append(line);
    }
    if (count > lines.size()) {
        text.append(list_item).append("… and " + std::to_string(count - lines.size()) + " more");
    }
    throw FileError(text);
}

} // namespace actquant
