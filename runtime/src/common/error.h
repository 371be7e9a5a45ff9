#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace actquant {

// Something failed that is neither the file's nor the caller's fault.
class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// The model file is missing, damaged, foreign, too new or inconsistent.
class FileError : public Error {
  public:
    using Error::Error;
};

// The caller passed something that does not fit the policy.
class ArgumentError : public Error {
  public:
    using Error::Error;
};

// Collects problems so that a broken file is reported whole, not one key per attempt.
class Problems {
  public:
    void add(std::string problem) { lines.push_back(std::move(problem)); }

    bool empty() const { return lines.empty(); }

    void throw_if_any(const std::string& headline) const {
        if (lines.empty()) {
            return;
        }
        std::string text = headline;
        for (const std::string& line : lines) {
            text += "\n  - " + line;
        }
        throw FileError(text);
    }

  private:
    std::vector<std::string> lines;
};

} // namespace actquant
