#include "image_file.h"

#include "arguments.h"
#include "common/limits.h"

#include <cstdlib>
#include <filesystem>

// The most that is allocated at once: a chunk of a PNG may claim to have a gigabyte.
static thread_local size_t most_bytes = 0;

static void* allocate(void* old, size_t bytes) {
    return bytes <= most_bytes ? std::realloc(old, bytes) : nullptr;
}

#define STBI_MALLOC(bytes) allocate(nullptr, bytes)
#define STBI_REALLOC(old, bytes) allocate(old, bytes)
#define STBI_FREE(old) std::free(old)
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#include <stb/stb_image.h>

namespace actquant::tools {

Image read_image(const std::string& path) {
    int width = 0, height = 0, channels = 0;
    auto cannot_be_read = [&] {
        return UsageError("the image '" + path + "' cannot be read (" + stbi_failure_reason() +
                          "); it must be PNG or JPEG");
    };
    constexpr size_t for_tables = 1 << 20;
    std::error_code missing;
    most_bytes = for_tables;
    if (stbi_info(path.c_str(), &width, &height, &channels) == 0) {
        throw cannot_be_read();
    }
    // A few bytes may be unpacked to a very large image.
    if (width > limits::image_side || height > limits::image_side ||
        int64_t(width) * height > limits::image_pixels) {
        throw UsageError("the image '" + path + "' is " + std::to_string(height) + "x" +
                         std::to_string(width) + " (height x width), too large");
    }
    // Four channels of 16 bits, and the file's bytes in a buffer that doubles.
    most_bytes += 8 * static_cast<size_t>(width) * static_cast<size_t>(height) +
                  2 * static_cast<size_t>(std::filesystem::file_size(path, missing));
    uint8_t* pixels = stbi_load(path.c_str(), &width, &height, &channels, 3);
    if (pixels == nullptr) {
        throw cannot_be_read();
    }
    Image image{height, width, {}};
    image.pixels.assign(pixels, pixels + 3 * image.height * image.width);
    stbi_image_free(pixels);
    return image;
}

} // namespace actquant::tools
