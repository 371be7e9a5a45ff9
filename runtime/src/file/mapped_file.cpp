#include "file/mapped_file.h"

#include "common/error.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace actquant {

MappedFile::MappedFile(const std::string& path)
    : file_path(path), descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), address(MAP_FAILED) {
    try {
        open_and_map();
    } catch (...) {
        if (descriptor >= 0) {
            ::close(descriptor);
        }
        throw;
    }
}

void MappedFile::open_and_map() {
    if (descriptor < 0 || fstat(descriptor, &opened) != 0) {
        throw FileError("cannot open the model file '" + file_path + "': " + std::strerror(errno));
    }
    if (S_ISREG(opened.st_mode) && opened.st_size > 0) {
        address = mmap(nullptr, size(), PROT_READ, MAP_SHARED, descriptor, 0);
    }
    if (address == MAP_FAILED) {
        throw FileError("cannot read the model file '" + file_path +
                        "': it is empty or no regular file");
    }
    guard.emplace(address, size());
    // The weights are needed at once: have them read in the background now.
    madvise(address, size(), MADV_WILLNEED);
}

void MappedFile::read(size_t offset, char* target, size_t count) const {
    while (count > 0) {
        ssize_t got = pread(descriptor, target, count, static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            throw FileError("cannot read the model file '" + file_path +
                            "': " + (got < 0 ? std::strerror(errno) : "it is truncated"));
        }
        target += got;
        offset += static_cast<size_t>(got);
        count -= static_cast<size_t>(got);
    }
}

void MappedFile::check_unchanged() const {
    struct stat now = {};
    if (fstat(descriptor, &now) != 0) {
        throw FileError("cannot look at the model file '" + file_path +
                        "': " + std::strerror(errno));
    }
    bool is_same = now.st_size == opened.st_size && now.st_mtim.tv_sec == opened.st_mtim.tv_sec &&
                   now.st_mtim.tv_nsec == opened.st_mtim.tv_nsec;
    if (!is_same) {
        throw FileError("the model file '" + file_path + "' was " +
                        (now.st_size < opened.st_size ? "truncated" : "written to") +
                        " while it was open, so that what it answers is not to be trusted. Open it "
                        "again; replace a file by renaming another one to its name.");
    }
}

void MappedFile::release(const char* begin, size_t count) const {
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size_t first = static_cast<size_t>(begin - data());
    size_t whole = (first + page - 1) / page * page;
    size_t end = (first + count) / page * page;
    if (whole < end) {
        madvise(data() + whole, end - whole, MADV_DONTNEED);
    }
}

MappedFile::~MappedFile() {
    guard.reset();
    munmap(address, size());
    ::close(descriptor);
}

} // namespace actquant
