#pragma once

#include <cstddef>
#include <cstdint>

namespace actquant {

constexpr size_t cache_line = 64;

// Bytes of whole cache lines.
constexpr size_t aligned(size_t bytes) {
    return (bytes + cache_line - 1) / cache_line * cache_line;
}

// The first cache line that begins at or behind an address.
inline char* aligned(void* address) {
    return reinterpret_cast<char*>(aligned(reinterpret_cast<uintptr_t>(address)));
}

} // namespace actquant
