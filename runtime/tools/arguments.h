#pragma once

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

// `MODEL --option value --flag`; an option may come several times.
class Arguments {
  public:
    Arguments(int argc, char** argv, const std::set<std::string>& options,
              const std::set<std::string>& flags);

    const std::string& model() const { return model_path; }
    bool has(const std::string& name) const { return given.count(name) > 0; }
    std::vector<std::string> all(const std::string& name) const;
    std::string one(const std::string& name, const std::string& otherwise) const;
    int whole_number(const std::string& name, int otherwise, int least) const;

  private:
    void add(const std::string& name, const std::string& value);

    std::string model_path;
    std::map<std::string, std::vector<std::string>> given;
};

std::vector<float> parse_numbers(const std::string& name, const std::string& text);

// Runs a program: prints what it throws, gives 2 for a wrong command line and 1 for other failures.
int run_main(int argc, char** argv, const char* name, const char* usage,
             const std::function<int()>& body);

} // namespace actquant::tools
