#include "file/gguf_header.h"

#include "common/error.h"
#include "common/limits.h"
#include "common/unicode.h"

#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <cstring>

namespace actquant {
namespace {

constexpr uint64_t alignment = 32;

[[noreturn]] void fail(const std::string& reason) {
    throw FileError(reason);
}

std::string quoted(std::string_view name) {
    return "'" + std::string(name.substr(0, limits::name_bytes)) + "'";
}

void check_most(const std::string& what, uint64_t count, uint64_t most) {
    if (count > most) {
        fail(what + " " + std::to_string(count) + ", at most " + std::to_string(most) +
             " are allowed");
    }
}

class HeaderWalk {
  public:
    explicit HeaderWalk(std::string_view file) : file(file) {}

    void check() {
        take(4); // magic
        uint32_t version = number<uint32_t>();
        if (version != GGUF_VERSION) {
            fail("its GGUF version is " + std::to_string(version) + ", expected " +
                 std::to_string(GGUF_VERSION));
        }
        uint64_t tensors = number<uint64_t>();
        uint64_t keys = number<uint64_t>();
        check_most("the number of tensors is", tensors, limits::tensors);
        check_most("the number of keys is", keys, limits::keys);
        for (uint64_t k = 0; k < keys; k++) {
            check_key();
        }
        uint64_t end = 0;
        for (uint64_t k = 0; k < tensors; k++) {
            end = check_tensor(end);
        }
    }

  private:
    std::string_view take(uint64_t bytes) {
        if (bytes > file.size() - place) {
            fail("the header ends behind the file");
        }
        std::string_view part = file.substr(place, bytes);
        place += bytes;
        return part;
    }

    template <typename Number> Number number() {
        Number value;
        std::memcpy(&value, take(sizeof value).data(), sizeof value);
        return value;
    }

    std::string_view text() { return take(number<uint64_t>()); }

    std::string_view name(const char* what, size_t most) {
        std::string_view found = text();
        if (found.empty() || found.size() > most) {
            fail("the name of a " + std::string(what) + " has " + std::to_string(found.size()) +
                 " bytes, expected 1 to " + std::to_string(most));
        }
        check_text(std::string(what) + " " + quoted(found), found);
        return found;
    }

    static void check_text(const std::string& what, std::string_view content) {
        if (content.find('\0') != content.npos || !is_utf8(content)) {
            fail("the text of the " + what + " is no UTF-8 or contains NUL");
        }
    }

    void check_key() {
        std::string_view key = name("key", limits::name_bytes);
        bool is_ours = key.starts_with("actquant.") || key.starts_with("general.");
        std::string what = "key " + quoted(key);
        uint32_t type = number<uint32_t>();
        uint64_t count = 1;
        if (type == GGUF_TYPE_ARRAY) {
            type = number<uint32_t>();
            count = number<uint64_t>();
            check_most("the number of elements of the " + what + " is", count,
                       limits::array_elements);
        }
        if (type == GGUF_TYPE_STRING) {
            for (uint64_t k = 0; k < count; k++) {
                std::string_view content = text();
                if (is_ours) {
                    check_text(what, content);
                }
            }
            return;
        }
        if (type >= GGUF_TYPE_COUNT || type == GGUF_TYPE_ARRAY) {
            fail("the " + what + " has the type " + std::to_string(type) + ", which GGUF has not");
        }
        std::string_view value = take(count * gguf_type_size(static_cast<gguf_type>(type)));
        if (key == GGUF_KEY_GENERAL_ALIGNMENT) {
            check_alignment(type, value);
        }
    }

    static size_t gguf_type_size(gguf_type type) {
        switch (type) {
        case GGUF_TYPE_UINT8:
        case GGUF_TYPE_INT8:
        case GGUF_TYPE_BOOL:
            return 1;
        case GGUF_TYPE_UINT16:
        case GGUF_TYPE_INT16:
            return 2;
        case GGUF_TYPE_UINT64:
        case GGUF_TYPE_INT64:
        case GGUF_TYPE_FLOAT64:
            return 8;
        default:
            return 4;
        }
    }

    static void check_alignment(uint32_t type, std::string_view value) {
        uint32_t actual = 0;
        std::memcpy(&actual, value.data(), std::min(value.size(), sizeof actual));
        if (type != GGUF_TYPE_UINT32 || value.size() != sizeof actual || actual != alignment) {
            fail("general.alignment is not " + std::to_string(alignment) + " (u32)");
        }
    }

    // begin: where the tensor before it ends, with its padding. Returns that of this one.
    uint64_t check_tensor(uint64_t begin) {
        std::string what = "tensor " + quoted(name("tensor", GGML_MAX_NAME - 1));
        uint32_t rank = number<uint32_t>();
        if (rank < 1 || rank > GGML_MAX_DIMS) {
            fail("the " + what + " has " + std::to_string(rank) + " dimensions, expected 1 to 4");
        }
        uint64_t columns = 1, rows = 1;
        for (uint32_t k = 0; k < rank; k++) {
            uint64_t extent = number<uint64_t>();
            uint64_t& product = k == 0 ? columns : rows;
            if (extent < 1 || __builtin_mul_overflow(product, extent, &product) ||
                columns > limits::tensor_elements || rows > limits::tensor_elements / columns) {
                fail("the dimension " + std::to_string(k) + " of the " + what + " is " +
                     std::to_string(extent) + ": none is 0, and all together have at most 2^40 " +
                     "elements");
            }
        }
        uint32_t type = number<uint32_t>();
        uint64_t block = type < GGML_TYPE_COUNT ? ggml_blck_size(static_cast<ggml_type>(type)) : 0;
        if (block == 0) {
            fail("the " + what + " has the type " + std::to_string(type) + ", which ggml has not");
        }
        if (columns % block != 0) {
            fail("a row of the " + what + " has " + std::to_string(columns) +
                 " elements, no multiple of " + std::to_string(block));
        }
        uint64_t bytes = columns / block * rows * ggml_type_size(static_cast<ggml_type>(type));
        uint64_t offset = number<uint64_t>();
        if (offset != begin) {
            fail("the " + what + " begins at " + std::to_string(offset) + ", expected " +
                 std::to_string(begin));
        }
        if (bytes > file.size() || begin > file.size() - bytes) {
            fail("the " + what + " ends behind the file");
        }
        return (begin + bytes + alignment - 1) / alignment * alignment;
    }

    std::string_view file;
    size_t place = 0;
};

} // namespace

void check_gguf_header(const std::string& path, std::string_view file) {
    try {
        HeaderWalk(file).check();
    } catch (const FileError& error) {
        throw FileError("'" + path + "' is damaged or truncated: " + error.what());
    }
}

} // namespace actquant
