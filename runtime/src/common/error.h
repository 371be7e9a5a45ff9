#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace actquant {

// `text` as it may be shown on a terminal: what is no UTF-8 becomes U+FFFD, control characters are
// escaped (\x1b), except the line breaks of a list of problems. What is above `most` bytes is cut.
std::string printable(const std::string& text, size_t most);

// Something failed that is neither the file's nor the caller's fault. What every error says is
// printable: the texts in it may come from a damaged file.
class Error : public std::runtime_error {
  public:
    explicit Error(const std::string& message);
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

// Collects problems so that a broken file is reported whole, not one key per attempt. Of very many,
// the first are told.
class Problems {
  public:
    void add(const std::string& problem);

    bool empty() const { return count == 0; }

    void throw_if_any(const std::string& headline) const;

  private:
    std::vector<std::string> lines;
    size_t count = 0;
};

} // namespace actquant
