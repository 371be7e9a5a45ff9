#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace actquant {

// A Hugging Face tokenizer.json of type BPE: byte-level, like SentencePiece's, or CLIP's. Gives the
// ids of the library tokenizers, without the file's own truncation and padding. Safe to use from
// several threads.
class Tokenizer {
  public:
    // Throws FileError that names every component that is not supported.
    explicit Tokenizer(std::string_view tokenizer_json);
    ~Tokenizer();
    Tokenizer(Tokenizer&&) noexcept;
    Tokenizer& operator=(Tokenizer&&) noexcept;

    // `text` is UTF-8; bytes that are none become U+FFFD.
    std::vector<int64_t> encode(std::string_view text, bool add_special_tokens = true) const;
    // What `encode` puts around the tokens of a text, e.g. a token for its begin.
    std::vector<int64_t> add_special_tokens(std::vector<int64_t> ids) const;

  private:
    struct Parts;

    std::unique_ptr<const Parts> parts;
};

} // namespace actquant
