#include "gguf_image.h"

#include <ggml.h>

#include <algorithm>
#include <cstring>
#include <string_view>

namespace actquant::fuzzing {
namespace {

constexpr size_t alignment = 32;
constexpr uint32_t array_type = 9;
constexpr size_t type_sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

struct Reader {
    std::string_view rest;
    bool failed = false;

    std::string take(uint64_t count) {
        if (count > rest.size()) {
            failed = true;
            return "";
        }
        std::string part(rest.substr(0, count));
        rest.remove_prefix(count);
        return part;
    }
    template <typename Number> Number number() {
        Number value = {};
        std::string bytes = take(sizeof value);
        std::memcpy(&value, bytes.data(), bytes.size());
        return value;
    }
    std::string text() { return take(number<uint64_t>()); }
};

GgufImage::Key read_key(Reader& reader) {
    GgufImage::Key key;
    key.name = reader.text();
    key.type = reader.number<uint32_t>();
    uint64_t count = 1;
    key.is_array = key.type == array_type;
    if (key.is_array) {
        key.type = reader.number<uint32_t>();
        count = reader.number<uint64_t>();
    }
    if (key.type >= std::size(type_sizes) || key.type == array_type || count > 4096) {
        reader.failed = true;
        return key;
    }
    for (uint64_t k = 0; k < count && !reader.failed; k++) {
        key.elements.push_back(key.is_text() ? reader.text() : reader.take(type_sizes[key.type]));
    }
    return key;
}

template <typename Number> void append(std::string& out, Number value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_text(std::string& out, const std::string& text) {
    append<uint64_t>(out, text.size());
    out += text;
}

size_t padded(size_t size) {
    return (size + alignment - 1) / alignment * alignment;
}

} // namespace

GgufImage::Key* GgufImage::find(const std::string& name) {
    auto found =
        std::find_if(keys.begin(), keys.end(), [&](const Key& key) { return key.name == name; });
    return found == keys.end() ? nullptr : &*found;
}

std::optional<GgufImage> take_apart(const uint8_t* data, size_t size) {
    Reader reader{{reinterpret_cast<const char*>(data), size}};
    GgufImage image;
    bool is_gguf = reader.take(4) == "GGUF" && reader.number<uint32_t>() == 3;
    uint64_t tensors = reader.number<uint64_t>();
    uint64_t keys = reader.number<uint64_t>();
    if (!is_gguf || tensors > 256 || keys > 256) {
        return std::nullopt;
    }
    for (uint64_t k = 0; k < keys && !reader.failed; k++) {
        image.keys.push_back(read_key(reader));
    }
    std::vector<uint64_t> offsets;
    for (uint64_t k = 0; k < tensors && !reader.failed; k++) {
        GgufImage::Tensor tensor;
        tensor.name = reader.text();
        uint32_t rank = reader.number<uint32_t>();
        for (uint32_t d = 0; d < rank && d < 8; d++) {
            tensor.extents.push_back(reader.number<uint64_t>());
        }
        tensor.type = reader.number<uint32_t>();
        offsets.push_back(reader.number<uint64_t>());
        image.tensors.push_back(std::move(tensor));
    }
    if (reader.failed) {
        return std::nullopt;
    }
    size_t begin = padded(size - reader.rest.size());
    std::string_view bytes =
        reader.rest.substr(std::min(reader.rest.size(), begin - (size - reader.rest.size())));
    offsets.push_back(bytes.size());
    for (size_t k = 0; k < image.tensors.size(); k++) {
        uint64_t first = std::min<uint64_t>(offsets[k], bytes.size());
        uint64_t end = std::clamp<uint64_t>(offsets[k + 1], first, bytes.size());
        image.tensors[k].bytes = bytes.substr(first, end - first);
    }
    return image;
}

std::string put_together(const GgufImage& image) {
    std::string out = "GGUF";
    append<uint32_t>(out, 3);
    append<uint64_t>(out, image.tensors.size());
    append<uint64_t>(out, image.keys.size());
    for (const GgufImage::Key& key : image.keys) {
        append_text(out, key.name);
        if (key.is_array) {
            append<uint32_t>(out, array_type);
        }
        append<uint32_t>(out, key.type);
        if (key.is_array) {
            append<uint64_t>(out, key.elements.size());
        }
        for (const std::string& element : key.elements) {
            if (key.is_text()) {
                append_text(out, element);
            } else {
                out += element;
            }
        }
    }
    size_t offset = 0;
    for (const GgufImage::Tensor& tensor : image.tensors) {
        append_text(out, tensor.name);
        append<uint32_t>(out, static_cast<uint32_t>(tensor.extents.size()));
        for (uint64_t extent : tensor.extents) {
            append<uint64_t>(out, extent);
        }
        append<uint32_t>(out, tensor.type);
        append<uint64_t>(out, offset);
        offset += padded(tensor.bytes.size());
    }
    out.resize(padded(out.size()));
    for (const GgufImage::Tensor& tensor : image.tensors) {
        out += tensor.bytes;
        out.resize(padded(out.size()));
    }
    return out;
}

} // namespace actquant::fuzzing
