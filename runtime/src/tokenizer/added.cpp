#include "tokenizer/added.h"

#include "common/error.h"
#include "common/limits.h"
#include "common/unicode.h"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace actquant {
AddedTokens::AddedTokens(const nlohmann::json& description, const Vocabulary& vocabulary,
                         const Normalizer& normalizer) {
    if (description.size() > limits::added_tokens) {
        throw FileError("the tokenizer has " + std::to_string(description.size()) +
                        " added tokens, more than " + std::to_string(limits::added_tokens));
    }
    std::map<int32_t, nlohmann::json> by_id; // of two with one id, the last counts
    std::vector<int32_t> order;              // special tokens before others
    for (bool special : {true, false}) {
        for (const nlohmann::json& token : description) {
            if (special) {
                by_id[assign_id(token.at("content").get<std::string>(), vocabulary)] = token;
            }
            if (token.value("special", false) == special) {
                order.push_back(find(token.at("content").get<std::string>()));
            }
        }
    }
    for (int32_t id : order) {
        const nlohmann::json& token = by_id.at(id);
        std::u32string content = from_utf8(token.at("content").get<std::string>());
        bool is_normalized = token.value("normalized", true);
        if (is_normalized) {
            content = normalizer(std::move(content));
        }
        if (!content.empty()) {
            (is_normalized ? normalized : verbatim)[content[0]].push_back(
                {content, id, token.value("single_word", false), token.value("lstrip", false),
                 token.value("rstrip", false)});
        }
    }
    for (Patterns* patterns : {&verbatim, &normalized}) {
        for (auto& [first, tokens] : *patterns) {
            std::stable_sort(tokens.begin(), tokens.end(), [](const Token& a, const Token& b) {
                return a.content.size() > b.content.size();
            });
        }
    }
}

int32_t AddedTokens::assign_id(const std::string& content, const Vocabulary& vocabulary) {
    if (auto known = ids.find(content); known != ids.end()) {
        return known->second;
    }
    int32_t id = vocabulary.find(content);
    if (id == Vocabulary::absent) {
        id = std::max(static_cast<int32_t>(vocabulary.size()), next_id);
    }
    next_id = std::max(next_id, id + 1);
    ids[content] = id;
    return id;
}

int32_t AddedTokens::find(const std::string& token) const {
    auto found = ids.find(token);
    return found == ids.end() ? Vocabulary::absent : found->second;
}

const AddedTokens::Token* AddedTokens::match_at(const Patterns& patterns,
                                                std::u32string_view text) {
    auto found = patterns.find(text[0]);
    if (found == patterns.end()) {
        return nullptr;
    }
    for (const Token& token : found->second) {
        if (text.substr(0, token.content.size()) == token.content) {
            return &token;
        }
    }
    return nullptr;
}

void AddedTokens::split_at(const Patterns& patterns, const Piece& piece,
                           std::vector<AddedPiece>& pieces) {
    std::u32string_view text = piece.text;
    auto add = [&](size_t begin, size_t end, int32_t id) {
        if (begin < end) {
            pieces.push_back(
                {{std::u32string(text.substr(begin, end - begin)), piece.at_start && begin == 0},
                 id});
        }
    };
    size_t done = 0;
    for (size_t place = 0; place < text.size();) {
        const Token* token = match_at(patterns, text.substr(place));
        if (token == nullptr) {
            place++;
            continue;
        }
        size_t begin = place;
        size_t end = place = begin + token->content.size();
        bool is_in_word =
            (begin > 0 && is_word(text[begin - 1])) || (end < text.size() && is_word(text[end]));
        if (token->single_word && is_in_word) {
            continue;
        }
        while (token->lstrip && begin > done && is_white_space(text[begin - 1])) {
            begin--;
        }
        while (token->rstrip && end < text.size() && is_white_space(text[end])) {
            end++;
        }
        add(done, begin, Vocabulary::absent);
        add(begin, end, token->id);
        done = end;
    }
    add(done, text.size(), Vocabulary::absent);
}

std::vector<AddedPiece> AddedTokens::split(const std::u32string& text,
                                           const Normalizer& normalizer) const {
    std::vector<AddedPiece> pieces;
    split_at(verbatim, {text, true}, pieces);
    std::vector<AddedPiece> result;
    for (AddedPiece& part : pieces) {
        if (part.id != Vocabulary::absent) {
            result.push_back(std::move(part));
        } else {
            part.piece.text = normalizer(std::move(part.piece.text));
            split_at(normalized, part.piece, result);
        }
    }
    return result;
}

} // namespace actquant
