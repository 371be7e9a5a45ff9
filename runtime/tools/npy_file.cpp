#include "npy_file.h"

#include "arguments.h"

#include <bit>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>

namespace actquant::tools {

static_assert(std::endian::native == std::endian::little);

// Of "… 'shape': (3, 4), …".
static bool read_shape(const std::string& header, std::vector<int64_t>& shape) {
    constexpr std::string_view key = "'shape': (";
    size_t begin = header.find(key);
    size_t end = header.find(')', begin);
    if (begin == header.npos || end == header.npos) {
        return false;
    }
    const char* place = header.data() + begin + key.size();
    const char* last = header.data() + end;
    while (place != last) {
        if (*place == ' ' || *place == ',') {
            place++;
            continue;
        }
        int64_t extent = 0;
        auto [next, error] = std::from_chars(place, last, extent);
        if (error != std::errc() || extent < 0) {
            return false;
        }
        shape.push_back(extent);
        place = next;
    }
    return true;
}

// Format: numpy.lib.format, versions 1.0 to 3.0.
NpyArray read_npy(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    auto fail = [&](const std::string& reason) -> UsageError {
        return UsageError("'" + path + "' " + reason + "; expected a .npy file of float32");
    };
    if (!file || bytes.size() < 12 || !bytes.starts_with("\x93NUMPY")) {
        throw fail("cannot be read or is no .npy file");
    }
    size_t length_bytes = bytes[6] == 1 ? 2 : 4;
    uint32_t header_length = 0;
    std::memcpy(&header_length, &bytes[8], length_bytes);
    size_t start = 8 + length_bytes;
    if (header_length > bytes.size() - start) {
        throw fail("is cut short");
    }
    std::string header = bytes.substr(start, header_length);
    NpyArray array;
    if (header.find("'<f4'") == header.npos ||
        header.find("'fortran_order': False") == header.npos || !read_shape(header, array.shape)) {
        throw fail("has another type or order");
    }
    size_t count = 1;
    for (int64_t extent : array.shape) {
        if (__builtin_mul_overflow(count, static_cast<size_t>(extent), &count)) {
            throw fail("is cut short");
        }
    }
    std::string_view data = std::string_view(bytes).substr(start + header_length);
    if (data.size() % sizeof(float) != 0 || data.size() / sizeof(float) != count) {
        throw fail("is cut short");
    }
    array.values.resize(count);
    std::memcpy(array.values.data(), data.data(), data.size());
    return array;
}

} // namespace actquant::tools
