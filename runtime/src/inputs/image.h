#pragma once

#include "inputs/image_resize.h"

#include <cstdint>
#include <string>
#include <vector>

namespace actquant {

// One line of actquant.image.steps (docs/format.md); what its kind does not use is left alone.
struct ImageStep {
    enum class Kind { resize, resize_pad, center_crop, crop_resize };

    Kind kind = Kind::resize;
    int64_t height = 0;
    int64_t width = 0;
    Resampling resampling;
    bool centered = false; // resize_pad: padding on all sides, not left and top only
    float value[3] = {};   // resize_pad: pixel value of the padding, per channel
    float fraction = 1;    // crop_resize: of the image's area
};

// Throws FileError with what is wrong in every line and what would be right.
std::vector<ImageStep> parse_image_steps(const std::vector<std::string>& lines);

struct ImageSpec {
    int64_t height = 0;
    int64_t width = 0;
    std::vector<ImageStep> steps;
    float scale = 1;
    float offset = 0;
};

// An image of 8-bit RGB pixels [height, width, 3]; absent when pixels is null.
struct ImageView {
    const uint8_t* pixels = nullptr;
    int64_t height = 0;
    int64_t width = 0;
};

// [3, spec.height, spec.width]: the steps, then pixel/255 · scale + offset. `camera` names the
// image in errors.
std::vector<float> preprocess_image(const ImageSpec& spec, const ImageView& image,
                                    const std::string& camera);

} // namespace actquant
