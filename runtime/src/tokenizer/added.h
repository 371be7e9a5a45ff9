#pragma once

#include "tokenizer/steps.h"
#include "tokenizer/vocabulary.h"

#include <map>
#include <unordered_map>

namespace actquant {

// A part of a text: an added token, or (without an id) what is still to be tokenized.
struct AddedPiece {
    Piece piece;
    int32_t id = Vocabulary::absent;
};

// Tokens that are found in the text before anything is split: first those that are looked for in
// the text as it is, then, in the rest, those that are looked for in the normalized text.
class AddedTokens {
  public:
    AddedTokens() = default;
    // `description`: "added_tokens" of a tokenizer.json. Ids follow from the vocabulary as in the
    // library tokenizers, not from the file.
    AddedTokens(const nlohmann::json& description, const Vocabulary& vocabulary,
                const Normalizer& normalizer);

    std::vector<AddedPiece> split(const std::u32string& text, const Normalizer& normalizer) const;
    int32_t find(const std::string& token) const;

  private:
    struct Token {
        std::u32string content; // as it is looked for
        int32_t id;
        bool single_word;
        bool lstrip;
        bool rstrip;
    };
    // By the first character, the longest first.
    using Patterns = std::unordered_map<char32_t, std::vector<Token>>;

    int32_t assign_id(const std::string& content, const Vocabulary& vocabulary);
    static const Token* match_at(const Patterns& patterns, std::u32string_view text);
    static void split_at(const Patterns& patterns, const Piece& piece,
                         std::vector<AddedPiece>& pieces);

    std::map<std::string, int32_t> ids;
    int32_t next_id = 0; // above all that were assigned
    Patterns verbatim;
    Patterns normalized;
};

} // namespace actquant
