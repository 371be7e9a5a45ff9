#include "common/limits.h"
#include "common/unicode.h"
#include "tokenizer/pattern.h"
#include "tokenizer/reading.h"
#include "tokenizer/steps.h"

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
            check_length(text.size());
        }
        return text;
    };
}

Normalizer read_replace(const Json& description, Problems&) {
    Pattern pattern(description.at("pattern"));
    std::u32string content = from_utf8(description.at("content").get<std::string>());
    return [pattern, content](std::u32string text) {
        std::u32string result;
        size_t end = 0;
        for (const Span& match : pattern.find_all(text)) {
            result.append(text, end, match.begin - end);
            result += content;
            check_length(result.size());
            end = match.end;
        }
        return result.append(text, end);
    };
}

Normalizer read_prepend(const Json& description, Problems&) {
    std::u32string start = from_utf8(description.at("prepend").get<std::string>());
    return [start](std::u32string text) { return text.empty() ? text : start + text; };
}

Normalizer read_strip(const Json& description, Problems&) {
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

std::u32string composed(std::u32string text) {
    return compose(text);
}

} // namespace

void check_length(size_t characters) {
    if (characters > limits::text_characters) {
        throw FileError("the tokenizer makes a text of " + std::to_string(characters) +
                        " characters, more than " + std::to_string(limits::text_characters));
    }
}

Normalizer read_normalizer(const Json& description, Problems& problems) {
    static const StepReaders<Normalizer> readers = {
        {"Sequence", read_sequence},
        {"Replace", read_replace},
        {"Prepend", read_prepend},
        {"Strip", read_strip},
        {"Lowercase", [](const Json&, Problems&) { return lowercase_letters; }},
        {"NFC", [](const Json&, Problems&) { return composed; }},
    };
    Normalizer nothing = [](std::u32string text) { return text; };
    return read_step("normalizer", readers, nothing, description, problems);
}

} // namespace actquant
