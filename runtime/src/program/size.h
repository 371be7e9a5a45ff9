#pragma once

#include "program/shape.h"

#include <string>
#include <string_view>
#include <vector>

namespace actquant {

// An integer of a program: constant + factor · L, with L the number of prompt tokens of the call.
struct Size {
    int64_t constant = 0;
    int64_t factor = 0;

    int64_t at(int64_t prompt_length) const { return constant + factor * prompt_length; }
};

// Parses `a`, `L`, `b*L`, `a+L` or `a+b*L`; false when the text is anything else.
bool parse_size(std::string_view text, Size& size);
// Parses "[1,35+L]" or "[]".
bool parse_sizes(std::string_view text, std::vector<Size>& sizes);

std::string to_string(const Size& size);
Shape shape_at(const std::vector<Size>& sizes, int64_t prompt_length);
std::vector<Size> constant_sizes(const Shape& shape);
bool depends_on_prompt(const std::vector<Size>& sizes);

} // namespace actquant
