#include "tokenizer/tokenizer.h"

#include "common/unicode.h"
#include "tokenizer/added.h"
#include "tokenizer/bpe.h"
#include "tokenizer/json.h"
#include "tokenizer/steps.h"
#include "tokenizer/template.h"

namespace actquant {
namespace {

using Json = nlohmann::json;

// The member, or null if there is none.
const Json& member(const Json& object, const char* name) {
    static const Json null;
    return object.is_object() && object.contains(name) ? object[name] : null;
}

std::string string_or_empty(const Json& value) {
    return value.is_null() ? "" : value.get<std::string>();
}

bool is_true(const Json& value) {
    return !value.is_null() && value.get<bool>();
}

BpeOptions read_options(const Json& model) {
    BpeOptions options;
    if (const Json& token = member(model, "unk_token"); !token.is_null()) {
        options.unknown_token = token.get<std::string>();
    }
    options.continuing_prefix = string_or_empty(member(model, "continuing_subword_prefix"));
    options.word_suffix = string_or_empty(member(model, "end_of_word_suffix"));
    options.fuses_unknown = is_true(member(model, "fuse_unk"));
    options.falls_back_to_bytes = is_true(member(model, "byte_fallback"));
    options.ignores_merges = is_true(member(model, "ignore_merges"));
    return options;
}

BpeModel read_model(TokenizerJson& source, Problems& problems) {
    const Json& model = member(source.root, "model");
    try {
        std::string type = model.value("type", "BPE"); // older files do not say it
        if (type != "BPE") {
            problems.add("the model '" + type + "' is not supported; supported is BPE");
            return {};
        }
        const Json& dropout = member(model, "dropout");
        if (!dropout.is_null() && dropout.get<double>() != 0) {
            problems.add("the model 'BPE' has dropout, with which its tokens are random");
        }
        return BpeModel(read_options(model), std::move(source.vocabulary), source.merges);
    } catch (const std::exception& error) {
        problems.add(std::string("the model: ") + error.what());
        return {};
    }
}

} // namespace

struct Tokenizer::Parts {
    Normalizer normalizer;
    PreTokenizer pre_tokenizer;
    BpeModel model;
    AddedTokens added_tokens;
    std::vector<TokenTemplate> templates;
};

Tokenizer::Tokenizer(std::string_view tokenizer_json) {
    TokenizerJson source = read_tokenizer_json(tokenizer_json);
    Problems problems;
    auto result = std::make_unique<Parts>();
    result->normalizer = read_normalizer(member(source.root, "normalizer"), problems);
    result->pre_tokenizer = read_pre_tokenizer(member(source.root, "pre_tokenizer"), problems);
    result->templates = read_post_processor(member(source.root, "post_processor"), problems);
    result->model = read_model(source, problems);
    problems.throw_if_any("the tokenizer cannot be used:");
    try {
        result->added_tokens = AddedTokens(member(source.root, "added_tokens"),
                                           result->model.vocabulary(), result->normalizer);
    } catch (const Json::exception& error) {
        throw FileError(std::string("the tokenizer's added_tokens: ") + error.what());
    }
    parts = std::move(result);
}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::vector<int64_t> Tokenizer::encode(std::string_view text, bool with_special_tokens) const {
    std::vector<int64_t> ids;
    check_length(text.size());
    for (const AddedPiece& part : parts->added_tokens.split(from_utf8(text), parts->normalizer)) {
        if (part.id != Vocabulary::absent) {
            ids.push_back(part.id);
            continue;
        }
        std::vector<Piece> words;
        parts->pre_tokenizer(part.piece, words);
        for (const Piece& word : words) {
            check_length(word.text.size());
            parts->model.encode(to_utf8(word.text), ids);
        }
    }
    return with_special_tokens ? add_special_tokens(std::move(ids)) : ids;
}

std::vector<int64_t> Tokenizer::add_special_tokens(std::vector<int64_t> ids) const {
    for (const TokenTemplate& around : parts->templates) {
        ids = fill(around, ids);
    }
    return ids;
}

} // namespace actquant
