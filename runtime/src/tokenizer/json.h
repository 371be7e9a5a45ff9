#pragma once

#include "tokenizer/vocabulary.h"

#include <nlohmann/json.hpp>

namespace actquant {

// A tokenizer.json. Its two large parts are read apart: as JSON values they would take ten times
// their size.
struct TokenizerJson {
    nlohmann::json root; // without model.vocab and model.merges
    Vocabulary vocabulary;
    StringList merges; // left and right in turn
};

// Throws FileError if the text is no JSON, or a large part has another form.
TokenizerJson read_tokenizer_json(std::string_view text);

} // namespace actquant
