#include "file/checksums.h"

#include "common/error.h"
#include "file/mapped_file.h"

#define XXH_INLINE_ALL
#include <hash/xxhash/xxhash.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

namespace actquant {
namespace {

constexpr const char* header_key = "actquant.checksum.header";
constexpr const char* tensors_key = "actquant.checksum.tensors";
constexpr size_t block_bytes = 1 << 20;

struct FreeState {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

uint64_t checksum_of(const MappedFile& file, size_t offset, size_t size, std::vector<char>& block) {
    std::unique_ptr<XXH3_state_t, FreeState> state(XXH3_createState());
    if (!state) {
        throw Error("out of memory for a checksum");
    }
    XXH3_64bits_reset(state.get());
    while (size > 0) {
        size_t count = std::min(size, block.size());
        file.read(offset, block.data(), count);
        XXH3_64bits_update(state.get(), block.data(), count);
        offset += count;
        size -= count;
    }
    return XXH3_64bits_digest(state.get());
}

// Fuzzers change files at random: those with right checksums are the least of them.
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
constexpr bool is_checked = false;
#else
constexpr bool is_checked = true;
#endif

[[noreturn]] void refuse(const MappedFile& file, const std::string& what) {
    throw FileError("'" + file.path() + "' is damaged: " + what + ". Copy or compress it again.");
}

} // namespace

uint64_t checksum(const void* data, size_t size) {
    return XXH3_64bits(data, size);
}

size_t find_header_checksum(const char* header, size_t size) {
    std::string entry(sizeof(uint64_t), '\0');
    uint64_t length = std::strlen(header_key);
    std::memcpy(entry.data(), &length, sizeof(length));
    entry += header_key;
    uint32_t type = GGUF_TYPE_UINT64;
    entry.append(reinterpret_cast<const char*>(&type), sizeof(type));

    std::string_view bytes(header, size);
    size_t found = bytes.find(entry);
    bool is_alone = found != bytes.npos && bytes.find(entry, found + 1) == bytes.npos;
    if (!is_alone || found + entry.size() + sizeof(uint64_t) > size) {
        throw FileError(std::string("the key ") + header_key +
                        " (u64) is missing or is there twice");
    }
    return found + entry.size();
}

void check_header(const MappedFile& file, const gguf_context* gguf) {
    if (!is_checked) {
        return;
    }
    std::string header(gguf_get_data_offset(gguf), '\0');
    file.read(0, header.data(), header.size());
    size_t place;
    try {
        place = find_header_checksum(header.data(), header.size());
    } catch (const FileError& error) {
        refuse(file, error.what());
    }
    uint64_t expected;
    std::memcpy(&expected, &header[place], sizeof(expected));
    std::memset(&header[place], 0, sizeof(expected));
    if (checksum(header.data(), header.size()) != expected) {
        refuse(file, "its keys do not have the checksum that they had when they were written");
    }
}

void check_tensors(const MappedFile& file, const gguf_context* gguf) {
    if (!is_checked) {
        return;
    }
    int64_t key = gguf_find_key(gguf, tensors_key);
    size_t count = static_cast<size_t>(gguf_get_n_tensors(gguf));
    if (key < 0 || gguf_get_kv_type(gguf, key) != GGUF_TYPE_ARRAY ||
        gguf_get_arr_type(gguf, key) != GGUF_TYPE_UINT64 || gguf_get_arr_n(gguf, key) != count) {
        refuse(file, std::string("the key ") + tensors_key +
                         " does not have a u64 for each of its " + std::to_string(count) +
                         " tensors");
    }
    const auto* expected = static_cast<const uint64_t*>(gguf_get_arr_data(gguf, key));
    size_t data_offset = gguf_get_data_offset(gguf);
    std::vector<char> block(block_bytes);
    Problems problems;
    for (size_t id = 0; id < count; id++) {
        size_t offset = data_offset + gguf_get_tensor_offset(gguf, id);
        if (checksum_of(file, offset, gguf_get_tensor_size(gguf, id), block) != expected[id]) {
            problems.add(gguf_get_tensor_name(gguf, id));
        }
    }
    problems.throw_if_any("'" + file.path() +
                          "' is damaged: copy or compress it again. These "
                          "tensors do not have the checksums that they had "
                          "when they were written:");
}

} // namespace actquant
