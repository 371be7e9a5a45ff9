#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace actquant {

enum class Resize { none, pad };

struct ImageSpec {
    int64_t height = 0;
    int64_t width = 0;
    Resize resize = Resize::none;
    float scale = 1;
    float offset = 0;
};

// An image of 8-bit RGB pixels [height, width, 3]; absent when pixels is null.
struct ImageView {
    const uint8_t* pixels = nullptr;
    int64_t height = 0;
    int64_t width = 0;
};

// [3, spec.height, spec.width], pixel/255 · scale + offset. `camera` names the image in errors.
std::vector<float> preprocess_image(const ImageSpec& spec, const ImageView& image,
                                    const std::string& camera);

} // namespace actquant
