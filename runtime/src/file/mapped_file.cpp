#include "file/mapped_file.h"

#include "common/error.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace actquant {

MappedFile::MappedFile(const std::string& path) {
    if (path.find('\0') != path.npos) {
        throw FileError("the path '" + path + "' contains NUL");
    }
    // Nobody may ever write to a pipe.
    int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat status = {};
    if (descriptor < 0 || fstat(descriptor, &status) != 0) {
        std::string reason = std::strerror(errno);
        if (descriptor >= 0) {
            ::close(descriptor);
        }
        throw FileError("cannot open the model file '" + path + "': " + reason);
    }
    bytes = static_cast<size_t>(status.st_size);
    void* mapped = MAP_FAILED;
    if (S_ISREG(status.st_mode) && bytes > 0) {
        mapped = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
    }
    ::close(descriptor);
    if (mapped == MAP_FAILED) {
        throw FileError("cannot read the model file '" + path +
                        "': it is empty or no regular file");
    }
    address = mapped;
    // The weights are needed at the first action: have them read in the background now.
    madvise(address, bytes, MADV_WILLNEED);
}

void MappedFile::release(const char* begin, size_t size) const {
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size_t first = static_cast<size_t>(begin - data());
    size_t whole = (first + page - 1) / page * page;
    size_t end = (first + size) / page * page;
    if (whole < end) {
        madvise(data() + whole, end - whole, MADV_DONTNEED);
    }
}

MappedFile::~MappedFile() {
    munmap(address, bytes);
}

} // namespace actquant
