#pragma once

#include <gguf.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace actquant {

class MappedFile;

// XXH3 in 64 bits (docs/format.md, "Checksums").
uint64_t checksum(const void* data, size_t size);

// Where the value of actquant.checksum.header lies among a header's bytes; they count as 0 in it.
// Throws FileError if the key is not there exactly once.
size_t find_header_checksum(const char* header, size_t size);

// Both throw FileError, naming what is damaged, if the file is not what it was when it was written.
// They read the file anew, so that pages which are not needed later do not stay.
void check_header(const MappedFile& file, const gguf_context* gguf);
void check_tensors(const MappedFile& file, const gguf_context* gguf);

} // namespace actquant
