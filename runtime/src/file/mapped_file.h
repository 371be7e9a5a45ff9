#pragma once

#include "file/fault_guard.h"

#include <cstddef>
#include <optional>
#include <string>

#include <sys/stat.h>

namespace actquant {

// The bytes of a file, mapped for reading.
class MappedFile {
  public:
    // Throws FileError if the file cannot be mapped.
    explicit MappedFile(const std::string& path);
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    ~MappedFile();

    const std::string& path() const { return file_path; }
    // Not to be written: the pages are read-only. Zeros where the file was truncated since.
    char* data() const { return static_cast<char*>(address); }
    size_t size() const { return static_cast<size_t>(opened.st_size); }

    // Copies a part of the file without mapping it. Throws FileError if it cannot be read.
    void read(size_t offset, char* target, size_t count) const;
    // Throws FileError if the file was written to since it was opened.
    void check_unchanged() const;
    // Gives the pages that lie wholly in a part back to the system; they are read again if they are
    // needed again.
    void release(const char* begin, size_t size) const;

  private:
    void open_and_map();

    std::string file_path;
    int descriptor = -1;
    void* address;
    struct stat opened = {};
    std::optional<FaultGuard> guard;
};

} // namespace actquant
