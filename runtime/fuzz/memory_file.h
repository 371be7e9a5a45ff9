#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace actquant::fuzzing {

// Bytes under a path, in memory.
class MemoryFile {
  public:
    MemoryFile(const uint8_t* data, size_t size);
    MemoryFile(const MemoryFile&) = delete;
    MemoryFile& operator=(const MemoryFile&) = delete;
    ~MemoryFile();

    std::string path() const;

  private:
    int descriptor;
};

// Ends the process, as a crash that a fuzzer sees, with what should not have happened.
[[noreturn]] void fail(const std::string& problem);

} // namespace actquant::fuzzing
