#pragma once

#include "tokenizer/vocabulary.h"

#include <optional>

namespace actquant {

// What the "model" of a tokenizer.json says.
struct BpeOptions {
    std::optional<std::string> unknown_token;
    std::string continuing_prefix; // of every character of a word but the first
    std::string word_suffix;       // of the last character of a word
    bool fuses_unknown = false;    // neighbouring unknown characters become one token
    bool falls_back_to_bytes = false;
    bool ignores_merges = false; // a word that is a token is that token
};

// Byte pair encoding: starts from characters and merges the pair of lowest rank until none is left.
class BpeModel {
  public:
    BpeModel() = default;
    // `merges`: left and right of each merge in turn, by rank. Throws FileError if one is not made
    // of tokens.
    BpeModel(BpeOptions options, Vocabulary vocabulary, const StringList& merges);

    // Appends the word's tokens to `ids`. The word is UTF-8.
    void encode(std::string_view word, std::vector<int64_t>& ids) const;
    const Vocabulary& vocabulary() const { return tokens; }

  private:
    struct Merge {
        uint64_t pair = no_pair;
        uint32_t rank = 0;
        int32_t result = 0;
    };
    class Word;

    static constexpr uint64_t no_pair = ~uint64_t(0);

    void build_merges(const StringList& merges);
    void add_merge(const Merge& merge);
    const Merge* find_merge(int32_t left, int32_t right) const;
    bool add_bytes(std::string_view text, Word& word) const;
    int32_t unknown_id() const;

    BpeOptions options;
    Vocabulary tokens;
    std::vector<Merge> merge_slots; // open addressing
};

} // namespace actquant
