#include "tokenizer/template.h"

#include "common/limits.h"

#include <nlohmann/json.hpp>

namespace actquant {
namespace {

using Json = nlohmann::json;

TokenTemplate read_template(const Json& description) {
    TokenTemplate result;
    for (const Json& item : description.at("single")) {
        if (item.contains("Sequence")) {
            if (item["Sequence"].at("id") != "A") {
                throw FileError("its template of one text names another");
            }
            result.push_back(std::nullopt);
            continue;
        }
        const Json& name = item.at("SpecialToken").at("id");
        const Json& token = description.at("special_tokens").at(name.get<std::string>());
        for (const Json& id : token.at("ids")) {
            result.push_back(id.get<int64_t>());
        }
    }
    return result;
}

// [token, id] of the begin and the end.
TokenTemplate read_begin_and_end(const Json& description) {
    return {description.at("cls").at(1).get<int64_t>(), std::nullopt,
            description.at("sep").at(1).get<int64_t>()};
}

} // namespace

std::vector<TokenTemplate> read_post_processor(const Json& description, Problems& problems) {
    if (description.is_null()) {
        return {};
    }
    std::string type;
    try {
        type = description.at("type").get<std::string>();
        if (type == "TemplateProcessing") {
            return {read_template(description)};
        }
        if (type == "RobertaProcessing" || type == "BertProcessing") {
            return {read_begin_and_end(description)};
        }
        if (type == "ByteLevel") {
            return {}; // it changes offsets only
        }
        if (type != "Sequence") {
            throw FileError("it is not supported; supported are BertProcessing, ByteLevel, "
                            "RobertaProcessing, Sequence and TemplateProcessing");
        }
        std::vector<TokenTemplate> result;
        for (const Json& step : description.at("processors")) {
            std::vector<TokenTemplate> more = read_post_processor(step, problems);
            result.insert(result.end(), more.begin(), more.end());
        }
        return result;
    } catch (const std::exception& error) {
        problems.add("the post_processor '" + type + "': " + error.what());
        return {};
    }
}

std::vector<int64_t> fill(const TokenTemplate& around, const std::vector<int64_t>& ids) {
    std::vector<int64_t> result;
    for (const std::optional<int64_t>& item : around) {
        if (item) {
            result.push_back(*item);
        } else {
            result.insert(result.end(), ids.begin(), ids.end());
        }
        if (result.size() > limits::text_characters) {
            throw FileError("the tokenizer's post_processor makes more than " +
                            std::to_string(limits::text_characters) + " tokens");
        }
    }
    return result;
}

} // namespace actquant
