#pragma once

#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <string>
#include <vector>

namespace actquant {

// Writes JSON by appending; commas are put where they are due.
class JsonWriter {
  public:
    void begin_object() { begin('{'); }
    void end_object() { end('}'); }
    void begin_array() { begin('['); }
    void end_array() { end(']'); }

    void key(const std::string& name);
    void value(const std::string& text);
    void value(const char* text) { value(std::string(text)); }
    void value(double number);
    void value(float number);
    void value(bool truth);
    void null();
    template <std::integral Integer> void value(Integer number) {
        separate();
        out += std::to_string(number);
    }
    template <typename Element> void value(const std::vector<Element>& elements) {
        begin_array();
        for (const Element& element : elements) {
            value(element);
        }
        end_array();
    }
    template <typename Value> void member(const std::string& name, const Value& content) {
        key(name);
        value(content);
    }

    const std::string& text() const { return out; }

  private:
    void begin(char bracket);
    void end(char bracket);
    void separate();

    std::string out;
    bool needs_comma = false;
};

} // namespace actquant
