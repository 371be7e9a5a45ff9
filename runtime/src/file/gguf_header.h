#pragma once

#include <string>
#include <string_view>

namespace actquant {

// Walks the header of a GGUF in memory and throws FileError, naming the key or tensor, where ggml
// would stop the process over it or take more memory than the file has bytes: counts, lengths and
// dimensions beyond the limits, types that do not exist, an alignment that is not docs/format.md's,
// tensors that end behind the file, texts of ours with NUL or that are no UTF-8. What passes,
// gguf_init reads.
void check_gguf_header(const std::string& path, std::string_view file);

} // namespace actquant
