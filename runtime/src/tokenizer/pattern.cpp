#include "tokenizer/pattern.h"

#include "common/error.h"
#include "common/unicode.h"

#include <nlohmann/json.hpp>

namespace actquant {

Pattern::Pattern(const nlohmann::json& description) {
    if (description.contains("Regex")) {
        regex = std::make_shared<Regex>(description["Regex"].get<std::string>());
        return;
    }
    literal = from_utf8(description.at("String").get<std::string>());
    if (literal.empty()) {
        throw FileError("its pattern is empty");
    }
}

std::vector<Span> Pattern::find_all(std::u32string_view text) const {
    if (regex) {
        return regex->find_all(text);
    }
    std::vector<Span> matches;
    for (size_t place = text.find(literal); place != text.npos;
         place = text.find(literal, place + literal.size())) {
        matches.push_back({place, place + literal.size()});
    }
    return matches;
}

} // namespace actquant
