#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace actquant::fuzzing {

// A GGUF taken apart, to be changed and put together again.
struct GgufImage {
    struct Key {
        std::string name;
        uint32_t type = 0; // of the elements
        bool is_array = false;
        std::vector<std::string> elements; // texts, or each number's bytes

        bool is_text() const { return type == 8; }
    };
    struct Tensor {
        std::string name;
        std::vector<uint64_t> extents; // the contiguous one first
        uint32_t type = 0;
        std::string bytes;
    };

    std::vector<Key> keys;
    std::vector<Tensor> tensors;

    Key* find(const std::string& name);
};

// Nothing where the bytes are no GGUF that can be followed.
std::optional<GgufImage> take_apart(const uint8_t* data, size_t size);
// Offsets follow from the tensors' bytes.
std::string put_together(const GgufImage& image);

} // namespace actquant::fuzzing
