#include "npy_file.h"

#include "arguments.h"

#include <bit>
#include <cstring>
#include <fstream>
#include <iterator>
#include <regex>

namespace actquant::tools {

static_assert(std::endian::native == std::endian::little);

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
    std::smatch dimensions;
    if (header.find("'<f4'") == header.npos ||
        header.find("'fortran_order': False") == header.npos ||
        !std::regex_search(header, dimensions, std::regex("'shape': \\(([0-9, ]*)\\)"))) {
        throw fail("has another type or order");
    }
    NpyArray array;
    std::string list = dimensions[1];
    size_t count = 1;
    const std::regex number("[0-9]+");
    for (std::sregex_iterator it(list.begin(), list.end(), number), end; it != end; ++it) {
        array.shape.push_back(std::stoll(it->str()));
        count *= static_cast<size_t>(array.shape.back());
    }
    std::string_view data = std::string_view(bytes).substr(start + header_length);
    if (data.size() != count * sizeof(float)) {
        throw fail("is cut short");
    }
    array.values.resize(count);
    std::memcpy(array.values.data(), data.data(), data.size());
    return array;
}

} // namespace actquant::tools
