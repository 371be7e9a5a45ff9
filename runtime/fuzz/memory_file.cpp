#include "memory_file.h"

#include <cstdio>
#include <cstdlib>

#include <sys/mman.h>
#include <unistd.h>

namespace actquant::fuzzing {

MemoryFile::MemoryFile(const uint8_t* data, size_t size) : descriptor(memfd_create("fuzz", 0)) {
    size_t written = 0;
    while (descriptor >= 0 && written < size) {
        ssize_t count = ::write(descriptor, data + written, size - written);
        if (count <= 0) {
            fail("the input cannot be written to memory");
        }
        written += static_cast<size_t>(count);
    }
    if (descriptor < 0) {
        fail("there is no file in memory");
    }
}

MemoryFile::~MemoryFile() {
    ::close(descriptor);
}

std::string MemoryFile::path() const {
    return "/proc/self/fd/" + std::to_string(descriptor);
}

void fail(const std::string& problem) {
    std::fprintf(stderr, "%s\n", problem.c_str());
    std::abort();
}

} // namespace actquant::fuzzing
