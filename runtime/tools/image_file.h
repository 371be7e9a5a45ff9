#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace actquant::tools {

// 8-bit RGB pixels [height, width, 3].
struct Image {
    int64_t height = 0;
    int64_t width = 0;
    std::vector<uint8_t> pixels;
};

// Reads a PNG or JPEG file; transparency and EXIF's orientation are ignored.
Image read_image(const std::string& path);

} // namespace actquant::tools
