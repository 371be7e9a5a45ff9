#include "arguments.h"

#include <charconv>
#include <cstdio>
#include <string_view>

namespace actquant::tools {

Arguments::Arguments(int argc, char** argv, const std::set<std::string>& options,
                     const std::set<std::string>& flags, size_t most_models) {
    for (int k = 1; k < argc; k++) {
        std::string word = argv[k];
        if (!word.starts_with("--")) {
            if (model_paths.size() == most_models) {
                throw UsageError("there are two models, '" + model() + "' and '" + word + "'");
            }
            model_paths.push_back(word);
            continue;
        }
        size_t equals = word.find('=');
        std::string name = word.substr(2, equals == word.npos ? word.npos : equals - 2);
        if (flags.count(name) > 0 && equals == word.npos) {
            given[name];
        } else if (options.count(name) == 0) {
            throw UsageError("there is no option '" + word + "'; see --help");
        } else if (equals != word.npos) {
            given[name].push_back(word.substr(equals + 1));
        } else if (k + 1 == argc) {
            throw UsageError("the option " + word + " needs a value");
        } else {
            given[name].push_back(argv[++k]);
        }
    }
    if (model_paths.empty()) {
        throw UsageError("the model file is missing; see --help");
    }
}

std::vector<std::string> Arguments::all(const std::string& name) const {
    auto found = given.find(name);
    return found == given.end() ? std::vector<std::string>() : found->second;
}

std::string Arguments::one(const std::string& name, const std::string& otherwise) const {
    std::vector<std::string> values = all(name);
    if (values.size() > 1) {
        throw UsageError("the option --" + name + " is given twice");
    }
    return values.empty() ? otherwise : values[0];
}

int Arguments::whole_number(const std::string& name, int otherwise, int least) const {
    std::string text = one(name, std::to_string(otherwise));
    int result = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result);
    if (error != std::errc() || end != text.data() + text.size() || result < least) {
        throw UsageError("--" + name + " " + text + " is no whole number from " +
                         std::to_string(least));
    }
    return result;
}

std::vector<float> parse_numbers(const std::string& name, const std::string& text) {
    std::vector<float> numbers;
    const char* place = text.data();
    const char* last = place + text.size();
    while (true) {
        while (place != last && *place == ' ') {
            place++;
        }
        float number = 0;
        auto [end, error] = std::from_chars(place, last, number);
        if (error != std::errc() || (end != last && *end != ',')) {
            throw UsageError("--" + name + " '" + text +
                             "' is no list of numbers with commas between them");
        }
        numbers.push_back(number);
        if (end == last) {
            return numbers;
        }
        place = end + 1;
    }
}

int run_main(int argc, char** argv, const char* name, const char* usage,
             const std::function<int()>& body) {
    for (int k = 1; k < argc; k++) {
        if (std::string_view(argv[k]) == "--help" || std::string_view(argv[k]) == "-h") {
            std::fputs(usage, stdout);
            return 0;
        }
    }
    try {
        return body();
    } catch (const UsageError& error) {
        std::fprintf(stderr, "%s: %s\n", name, error.what());
        return 2;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s: %s\n", name, error.what());
        return 1;
    }
}

} // namespace actquant::tools
