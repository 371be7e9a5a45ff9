#include "common/json.h"

#include <cstdio>

namespace actquant {
namespace {

std::string quoted(const std::string& text) {
    std::string result = "\"";
    for (unsigned char c : text) {
        if (c == '"' || c == '\\') {
            result += '\\';
            result += static_cast<char>(c);
        } else if (c < 0x20) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\u%04x", c);
            result += escape;
        } else {
            result += static_cast<char>(c);
        }
    }
    return result + '"';
}

template <typename Number> std::string shortest(Number number) {
    if (!std::isfinite(number)) {
        return "null";
    }
    char buffer[32];
    auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, number);
    return std::string(buffer, end);
}

} // namespace

void JsonWriter::begin(char bracket) {
    separate();
    out += bracket;
    needs_comma = false;
}

void JsonWriter::end(char bracket) {
    out += bracket;
    needs_comma = true;
}

void JsonWriter::separate() {
    if (needs_comma) {
        out += ',';
    }
    needs_comma = true;
}

void JsonWriter::key(const std::string& name) {
    separate();
    out += quoted(name) + ':';
    needs_comma = false;
}

void JsonWriter::value(const std::string& text) {
    separate();
    out += quoted(text);
}

void JsonWriter::value(double number) {
    separate();
    out += shortest(number);
}

void JsonWriter::value(float number) {
    separate();
    out += shortest(number);
}

void JsonWriter::value(bool truth) {
    separate();
    out += truth ? "true" : "false";
}

void JsonWriter::null() {
    separate();
    out += "null";
}

} // namespace actquant
