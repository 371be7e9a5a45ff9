#include "program/size.h"

#include <algorithm>
#include <charconv>

namespace actquant {
namespace {

// Far above any real size, and low enough that no prompt length makes it overflow.
constexpr int64_t largest_symbolic = int64_t(1) << 30;

bool is_sane(int64_t value) {
    return value >= -largest_symbolic && value <= largest_symbolic;
}

// Takes a decimal integer off the front of the text.
bool take_integer(std::string_view& text, int64_t& value) {
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc()) {
        return false;
    }
    text.remove_prefix(end - text.data());
    return true;
}

// Parses `L` or `b*L`.
bool parse_slope(std::string_view text, int64_t& factor) {
    factor = 1;
    return text == "L" || (take_integer(text, factor) && text == "*L" && is_sane(factor));
}

} // namespace

bool parse_size(std::string_view text, Size& size) {
    size = {};
    if (parse_slope(text, size.factor)) {
        return true;
    }
    size.factor = 0;
    if (!take_integer(text, size.constant)) {
        return false;
    }
    return text.empty() ||
           (text[0] == '+' && is_sane(size.constant) && parse_slope(text.substr(1), size.factor));
}

bool parse_sizes(std::string_view text, std::vector<Size>& sizes) {
    sizes.clear();
    if (text.size() < 2 || text.front() != '[' || text.back() != ']') {
        return false;
    }
    text = text.substr(1, text.size() - 2);
    while (!text.empty()) {
        size_t comma = std::min(text.find(','), text.size());
        sizes.emplace_back();
        if (!parse_size(text.substr(0, comma), sizes.back())) {
            return false;
        }
        text.remove_prefix(std::min(comma + 1, text.size()));
    }
    return true;
}

std::string to_string(const Size& size) {
    if (size.factor == 0) {
        return std::to_string(size.constant);
    }
    std::string slope = size.factor == 1 ? std::string("L") : std::to_string(size.factor) + "*L";
    return size.constant == 0 ? slope : std::to_string(size.constant) + "+" + slope;
}

Shape shape_at(const std::vector<Size>& sizes, int64_t prompt_length) {
    Shape shape;
    for (const Size& size : sizes) {
        shape.push_back(size.at(prompt_length));
    }
    return shape;
}

std::vector<Size> constant_sizes(const Shape& shape) {
    std::vector<Size> sizes;
    for (int64_t extent : shape) {
        sizes.push_back({extent, 0});
    }
    return sizes;
}

bool depends_on_prompt(const std::vector<Size>& sizes) {
    return std::any_of(sizes.begin(), sizes.end(),
                       [](const Size& size) { return size.factor != 0; });
}

} // namespace actquant
