#include "tokenizer/json.h"

#include "common/error.h"
#include "common/limits.h"

namespace actquant {
namespace {

using Json = nlohmann::json;

class Reader : public nlohmann::json_sax<Json> {
  public:
    explicit Reader(TokenizerJson& target) : target(target) {}

    bool key(std::string& name) override {
        if (part == Part::vocabulary) {
            token = std::move(name);
        } else {
            names.back() = std::move(name);
        }
        return true;
    }

    bool start_object(std::size_t) override {
        if (part == Part::other && is_at("vocab")) {
            part = Part::vocabulary;
            return true;
        }
        return open(Json::object());
    }

    bool end_object() override {
        if (part == Part::vocabulary) {
            part = Part::other;
            return true;
        }
        return close();
    }

    bool start_array(std::size_t) override {
        if (part == Part::other && is_at("merges")) {
            part = Part::merges;
            return true;
        }
        if (part == Part::merges) {
            part = Part::pair;
            pair_size = 0;
            return true;
        }
        return open(Json::array());
    }

    bool end_array() override {
        if (part == Part::pair) {
            part = Part::merges;
            return pair_size == 2 || fail("a merge is no pair of tokens");
        }
        if (part == Part::merges) {
            part = Part::other;
            return true;
        }
        return close();
    }

    bool string(std::string& text) override {
        if (part == Part::pair) {
            pair_size++;
            target.merges.add(text);
            return true;
        }
        return part == Part::merges ? add_merge(text) : add(std::move(text));
    }

    bool number_unsigned(std::uint64_t number) override {
        if (part == Part::vocabulary) {
            if (number > static_cast<std::uint64_t>(limits::token_id)) {
                return fail("the token '" + token + "' has an id above " +
                            std::to_string(limits::token_id));
            }
            target.vocabulary.add(token, static_cast<int32_t>(number));
            return true;
        }
        return add(number);
    }

    bool null() override { return add(nullptr); }
    bool boolean(bool truth) override { return add(truth); }
    bool number_integer(std::int64_t number) override { return add(number); }
    bool number_float(double number, const std::string&) override { return add(number); }
    bool binary(Json::binary_t&) override { return fail("it contains binary data"); }

    bool parse_error(std::size_t, const std::string&, const Json::exception& error) override {
        return fail(error.what());
    }

  private:
    enum class Part { other, vocabulary, merges, pair };

    // Whether the value to come is this member of "model".
    bool is_at(const char* name) const {
        return containers.size() == 2 && containers[1]->is_object() && names[0] == "model" &&
               names[1] == name;
    }

    template <typename Value> bool add(Value&& value) {
        return part == Part::other
                   ? (place(std::forward<Value>(value)), true)
                   : fail("model.vocab or model.merges has a value of a wrong kind");
    }

    Json* place(Json value) {
        if (containers.empty()) {
            target.root = std::move(value);
            return &target.root;
        }
        Json& container = *containers.back();
        if (container.is_array()) {
            container.push_back(std::move(value));
            return &container.back();
        }
        return &(container[names.back()] = std::move(value));
    }

    bool open(Json container) {
        if (part != Part::other) {
            return fail("model.vocab or model.merges has a value of a wrong kind");
        }
        if (containers.size() >= limits::json_depth) {
            return fail("its values are nested more than " + std::to_string(limits::json_depth) +
                        " deep");
        }
        containers.push_back(place(std::move(container)));
        names.emplace_back();
        return true;
    }

    bool close() {
        containers.pop_back();
        names.pop_back();
        return true;
    }

    // The older form of a merge: "left right".
    bool add_merge(const std::string& text) {
        if (text.starts_with("#version")) {
            return true;
        }
        size_t space = text.find(' ');
        if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
            return fail("the merge '" + text + "' is no pair of tokens");
        }
        target.merges.add(std::string_view(text).substr(0, space));
        target.merges.add(std::string_view(text).substr(space + 1));
        return true;
    }

    [[noreturn]] static bool fail(const std::string& reason) {
        throw FileError("the tokenizer cannot be read: " + reason);
    }

    TokenizerJson& target;
    std::vector<Json*> containers;
    std::vector<std::string> names; // the current key of each container
    Part part = Part::other;
    std::string token;
    int pair_size = 0;
};

} // namespace

TokenizerJson read_tokenizer_json(std::string_view text) {
    TokenizerJson result;
    Reader reader(result);
    Json::sax_parse(text.begin(), text.end(), &reader);
    result.vocabulary.build_index();
    return result;
}

} // namespace actquant
