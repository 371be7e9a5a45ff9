#include "tokenizer_pattern.h"
#include "tokenizer_steps.h"
#include "unicode.h"

#include <nlohmann/json.hpp>

namespace actquant {
namespace {

using Json = nlohmann::json;

Normalizer read_sequence(const Json& description, Problems& problems) {
    std::vector<Normalizer> steps;
    for (const Json& step : description.at("normalizers")) {
        steps.push_back(read_normalizer(step, problems));
    }
    return [steps](std::u32string text) {
        for (const Normalizer& step : steps) {
            text = step(std::move(text));
        }
        return text;
    };
}

Normalizer read_replace(const Json& description) {
    Pattern pattern(description.at("pattern"));
    std::u32string content = from_utf8(description.at("content").get<std::string>());
    return [pattern, content](std::u32string text) {
        std::u32string result;
        size_t end = 0;
        for (const Span& match : pattern.find_all(text)) {
            result.append(text, end, match.begin - end);
            result += content;
            end = match.end;
        }
        return result.append(text, end);
    };
}

Normalizer read_prepend(const Json& description) {
    std::u32string start = from_utf8(description.at("prepend").get<std::string>());
    return [start](std::u32string text) { return text.empty() ? text : start + text; };
}

Normalizer read_strip(const Json& description) {
    bool left = description.value("strip_left", true);
    bool right = description.value("strip_right", true);
    return [left, right](std::u32string text) {
        size_t begin = 0;
        size_t end = text.size();
        while (left && begin < end && is_white_space(text[begin])) {
            begin++;
        }
        while (right && begin < end && is_white_space(text[end - 1])) {
            end--;
        }
        return text.substr(begin, end - begin);
    };
}

// Letter by letter: unlike Python's, it knows no final sigma.
std::u32string lowercase_letters(std::u32string text) {
    std::u32string result;
    for (char32_t c : text) {
        append_lowercase(result, c);
    }
    return result;
}

Normalizer read_known(const std::string& type, const Json& description, Problems& problems) {
    if (type == "Sequence") {
        return read_sequence(description, problems);
    }
    if (type == "Replace") {
        return read_replace(description);
    }
    if (type == "Prepend") {
        return read_prepend(description);
    }
    if (type == "Strip") {
        return read_strip(description);
    }
    if (type == "Lowercase") {
        return lowercase_letters;
    }
    if (type == "NFC") {
        return [](std::u32string text) { return compose(text); };
    }
    throw FileError("it is not supported; supported are Lowercase, NFC, Prepend, Replace, "
                    "Sequence and Strip");
}

} // namespace

Normalizer read_normalizer(const Json& description, Problems& problems) {
    Normalizer nothing = [](std::u32string text) { return text; };
    if (description.is_null()) {
        return nothing;
    }
    std::string type;
    try {
        type = description.at("type").get<std::string>();
        return read_known(type, description, problems);
    } catch (const std::exception& error) {
        problems.add("the normalizer '" + type + "': " + error.what());
        return nothing;
    }
}

} // namespace actquant
