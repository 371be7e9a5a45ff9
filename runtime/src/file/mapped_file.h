#pragma once

#include <cstddef>
#include <string>

namespace actquant {

// The bytes of a file, mapped for reading.
class MappedFile {
  public:
    // Throws FileError if the file cannot be mapped.
    explicit MappedFile(const std::string& path);
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    ~MappedFile();

    // Not to be written: the pages are read-only.
    char* data() const { return static_cast<char*>(address); }
    size_t size() const { return bytes; }

    // Gives the pages that lie wholly in a part back to the system; they are read again if they are
    // needed again.
    void release(const char* begin, size_t size) const;

  private:
    void* address = nullptr;
    size_t bytes = 0;
};

} // namespace actquant
