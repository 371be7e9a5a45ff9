#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace actquant::tools {

// The command line is wrong, or what it names is.
class UsageError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// `MODEL --option value --flag`; an option may come several times, and so may MODEL for a program
// that takes any number of them.
class Arguments {
  public:
    static constexpr size_t any_number = SIZE_MAX;

    Arguments(int argc, char** argv, const std::set<std::string>& options,
              const std::set<std::string>& flags, size_t most_models = 1);

    const std::string& model() const { return model_paths[0]; }
    const std::vector<std::string>& models() const { return model_paths; }
    bool has(const std::string& name) const { return given.count(name) > 0; }
    std::vector<std::string> all(const std::string& name) const;
    std::string one(const std::string& name, const std::string& otherwise) const;
    int whole_number(const std::string& name, int otherwise, int least) const;

  private:
    void add(const std::string& name, const std::string& value);

    std::vector<std::string> model_paths;
    std::map<std::string, std::vector<std::string>> given;
};

std::vector<float> parse_numbers(const std::string& name, const std::string& text);

// Runs a program: prints what it throws, gives 2 for a wrong command line and 1 for other failures.
int run_main(int argc, char** argv, const char* name, const char* usage,
             const std::function<int()>& body);

} // namespace actquant::tools
