#include "common/json_text.h"

#include "common/limits.h"

#include <nlohmann/json.hpp>

namespace actquant {
namespace {

using Json = nlohmann::json;

// Builds nothing.
class Checker : public nlohmann::json_sax<Json> {
  public:
    std::string problem;

    bool start_object(std::size_t) override { return open(); }
    bool end_object() override { return close(); }
    bool start_array(std::size_t) override { return open(); }
    bool end_array() override { return close(); }
    bool key(std::string&) override { return true; }
    bool string(std::string&) override { return true; }
    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(std::int64_t) override { return true; }
    bool number_unsigned(std::uint64_t) override { return true; }
    bool number_float(double, const std::string&) override { return true; }
    bool binary(Json::binary_t&) override { return true; }
    bool parse_error(std::size_t, const std::string&, const Json::exception& error) override {
        problem = std::string("it is no JSON: ") + error.what();
        return false;
    }

  private:
    bool open() {
        if (++depth <= limits::json_depth) {
            return true;
        }
        problem = "its values are nested more than " + std::to_string(limits::json_depth) + " deep";
        return false;
    }
    bool close() {
        depth--;
        return true;
    }

    size_t depth = 0;
};

} // namespace

std::string what_json_lacks(std::string_view text) {
    Checker checker;
    Json::sax_parse(text.begin(), text.end(), &checker);
    return checker.problem;
}

} // namespace actquant
