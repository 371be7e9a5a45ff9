#include "image_file.h"

#include "arguments.h"

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#include <stb/stb_image.h>

namespace actquant::tools {

Image read_image(const std::string& path) {
    int width = 0, height = 0, channels = 0;
    uint8_t* pixels = stbi_load(path.c_str(), &width, &height, &channels, 3);
    if (pixels == nullptr) {
        throw UsageError("the image '" + path + "' cannot be read (" + stbi_failure_reason() +
                         "); it must be PNG or JPEG");
    }
    Image image{height, width, {}};
    image.pixels.assign(pixels, pixels + 3 * image.height * image.width);
    stbi_image_free(pixels);
    return image;
}

} // namespace actquant::tools
