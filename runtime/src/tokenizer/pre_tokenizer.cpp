#include "common/unicode.h"
#include "tokenizer/pattern.h"
#include "tokenizer/reading.h"
#include "tokenizer/split.h"
#include "tokenizer/steps.h"

#include <array>
#include <map>

namespace actquant {
namespace {

using Json = nlohmann::json;

void append_pieces(const Piece& piece, const std::vector<Span>& spans, std::vector<Piece>& pieces) {
    for (const Span& span : spans) {
        if (span.end > span.begin) {
            pieces.push_back({piece.text.substr(span.begin, span.end - span.begin),
                              piece.at_start && span.begin == 0});
        }
    }
}

PreTokenizer read_sequence(const Json& description, Problems& problems) {
    std::vector<PreTokenizer> steps;
    for (const Json& step : description.at("pretokenizers")) {
        steps.push_back(read_pre_tokenizer(step, problems));
    }
    return [steps](const Piece& piece, std::vector<Piece>& pieces) {
        std::vector<Piece> current = {piece};
        for (const PreTokenizer& step : steps) {
            std::vector<Piece> next;
            for (const Piece& part : current) {
                step(part, next);
            }
            size_t characters = 0;
            for (const Piece& part : next) {
                characters += part.text.size();
            }
            check_length(characters);
            current = std::move(next);
        }
        pieces.insert(pieces.end(), current.begin(), current.end());
    };
}

SplitBehavior read_behavior(const Json& description) {
    static const std::map<std::string, SplitBehavior> behaviors = {
        {"Removed", SplitBehavior::removed},
        {"Isolated", SplitBehavior::isolated},
        {"MergedWithPrevious", SplitBehavior::merged_with_previous},
        {"MergedWithNext", SplitBehavior::merged_with_next},
        {"Contiguous", SplitBehavior::contiguous},
    };
    std::string name = description.at("behavior").get<std::string>();
    auto found = behaviors.find(name);
    if (found == behaviors.end()) {
        throw FileError("the behavior '" + name + "' is unknown");
    }
    return found->second;
}

PreTokenizer read_split(const Json& description, Problems&) {
    Pattern pattern(description.at("pattern"));
    SplitBehavior behavior = read_behavior(description);
    bool inverted = description.value("invert", false);
    return [=](const Piece& piece, std::vector<Piece>& pieces) {
        append_pieces(piece,
                      split(piece.text.size(), pattern.find_all(piece.text), behavior, inverted),
                      pieces);
    };
}

// The printable character that stands for each byte in a byte-level vocabulary: itself where it is
// printable Latin-1, else the next one from U+0100.
std::array<char32_t, 256> byte_characters() {
    std::array<char32_t, 256> characters;
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; byte++) {
        bool is_printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
        characters[byte] = is_printable ? byte : next++;
    }
    return characters;
}

std::u32string spell_bytes(std::u32string_view text) {
    static const std::array<char32_t, 256> characters = byte_characters();
    std::u32string result;
    for (char byte : to_utf8(text)) {
        result += characters[static_cast<unsigned char>(byte)];
    }
    return result;
}

PreTokenizer read_byte_level(const Json& description, Problems&) {
    static const Regex words("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"
                             "\\s+(?!\\S)|\\s+");
    bool adds_space = description.value("add_prefix_space", true);
    bool splits = description.value("use_regex", true);
    return [=](const Piece& piece, std::vector<Piece>& pieces) {
        Piece whole = piece;
        if (adds_space && whole.text.front() != ' ') {
            whole.text.insert(whole.text.begin(), ' ');
        }
        size_t first = pieces.size();
        if (splits) {
            append_pieces(
                whole,
                split(whole.text.size(), words.find_all(whole.text), SplitBehavior::isolated),
                pieces);
        } else {
            pieces.push_back(std::move(whole));
        }
        for (size_t k = first; k < pieces.size(); k++) {
            pieces[k].text = spell_bytes(pieces[k].text);
        }
    };
}

PreTokenizer split_at(bool (*predicate)(char32_t), SplitBehavior behavior) {
    return [=](const Piece& piece, std::vector<Piece>& pieces) {
        append_pieces(piece,
                      split(piece.text.size(), find_characters(piece.text, predicate), behavior),
                      pieces);
    };
}

PreTokenizer read_digits(const Json& description, Problems&) {
    return split_at(is_numeric, description.value("individual_digits", false)
                                    ? SplitBehavior::isolated
                                    : SplitBehavior::contiguous);
}

enum class Prepending { never, first, always };

Prepending read_prepending(const Json& description) {
    if (!description.contains("prepend_scheme")) {
        return description.value("add_prefix_space", true) ? Prepending::always : Prepending::never;
    }
    std::string scheme = description["prepend_scheme"].get<std::string>();
    if (scheme != "always" && scheme != "first" && scheme != "never") {
        throw FileError("the prepend_scheme '" + scheme + "' is unknown");
    }
    return scheme == "always"  ? Prepending::always
           : scheme == "first" ? Prepending::first
                               : Prepending::never;
}

PreTokenizer read_metaspace(const Json& description, Problems&) {
    std::u32string replacement = from_utf8(description.at("replacement").get<std::string>());
    if (replacement.size() != 1) {
        throw FileError("its replacement is not one character");
    }
    char32_t mark = replacement[0];
    Prepending prepending = read_prepending(description);
    bool splits = description.value("split", true);
    return [=](const Piece& piece, std::vector<Piece>& pieces) {
        Piece whole = piece;
        for (char32_t& c : whole.text) {
            c = c == ' ' ? mark : c;
        }
        bool prepends =
            prepending == Prepending::always || (prepending == Prepending::first && piece.at_start);
        if (prepends && whole.text.front() != mark) {
            whole.text.insert(whole.text.begin(), mark);
        }
        if (!splits) {
            pieces.push_back(std::move(whole));
            return;
        }
        std::vector<Span> marks =
            find_characters(whole.text, [=](char32_t c) { return c == mark; });
        append_pieces(whole, split(whole.text.size(), marks, SplitBehavior::merged_with_next),
                      pieces);
    };
}

// Runs of word characters and runs of others, without white space.
PreTokenizer read_whitespace(const Json&, Problems&) {
    return [](const Piece& piece, std::vector<Piece>& pieces) {
        auto kind = [](char32_t c) { return is_word(c) ? 1 : is_white_space(c) ? 0 : 2; };
        std::vector<Span> spans;
        int last = 0;
        for (size_t k = 0; k < piece.text.size(); k++) {
            int current = kind(piece.text[k]);
            if (current != 0 && current == last) {
                spans.back().end++;
            } else if (current != 0) {
                spans.push_back({k, k + 1});
            }
            last = current;
        }
        append_pieces(piece, spans, pieces);
    };
}

PreTokenizer read_white_space_split(const Json&, Problems&) {
    return split_at(is_white_space, SplitBehavior::removed);
}

} // namespace

PreTokenizer read_pre_tokenizer(const Json& description, Problems& problems) {
    static const StepReaders<PreTokenizer> readers = {
        {"Sequence", read_sequence},
        {"Split", read_split},
        {"ByteLevel", read_byte_level},
        {"Digits", read_digits},
        {"Metaspace", read_metaspace},
        {"Whitespace", read_whitespace},
        {"WhitespaceSplit", read_white_space_split},
    };
    PreTokenizer nothing = [](const Piece& piece, std::vector<Piece>& pieces) {
        pieces.push_back(piece);
    };
    return read_step("pre_tokenizer", readers, nothing, description, problems);
}

} // namespace actquant
