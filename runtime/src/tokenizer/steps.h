#pragma once

#include "common/error.h"

#include <nlohmann/json_fwd.hpp>

#include <functional>
#include <string>
#include <vector>

namespace actquant {

// Part of a text on its way through a tokenizer.
struct Piece {
    std::u32string text;
    bool at_start = false; // of the whole text
};

using Normalizer = std::function<std::u32string(std::u32string)>;
// Appends what becomes of a piece.
using PreTokenizer = std::function<void(const Piece&, std::vector<Piece>&)>;

// Throws FileError if a text has become longer than limits::text_characters: a tokenizer may make a
// text longer in every one of its steps.
void check_length(size_t characters);

// From the values of "normalizer" and "pre_tokenizer" in a tokenizer.json; null changes nothing.
// What is unknown or wrong is added to `problems`.
Normalizer read_normalizer(const nlohmann::json& description, Problems& problems);
PreTokenizer read_pre_tokenizer(const nlohmann::json& description, Problems& problems);

} // namespace actquant
