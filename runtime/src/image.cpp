#include "image.h"

#include "error.h"

#include <algorithm>

namespace actquant {
namespace {

// Where one output pixel reads along one axis (align_corners = false, as PyTorch does it in f32).
struct Tap {
    int64_t low;
    int64_t high;
    float high_weight;
};

std::vector<Tap> bilinear_taps(int64_t source, int64_t target) {
    std::vector<Tap> taps(target);
    float ratio = static_cast<float>(source) / static_cast<float>(target);
    for (int64_t k = 0; k < target; k++) {
        float position = std::max(ratio * (static_cast<float>(k) + 0.5f) - 0.5f, 0.0f);
        int64_t low = std::min(static_cast<int64_t>(position), source - 1);
        taps[k] = {low, std::min(low + 1, source - 1), position - static_cast<float>(low)};
    }
    return taps;
}

struct Size {
    int64_t height;
    int64_t width;
};

// The largest size with the image's ratio that fits into the target, rounded down.
Size size_within(const ImageView& image, const ImageSpec& spec) {
    double ratio = std::max(static_cast<double>(image.width) / static_cast<double>(spec.width),
                            static_cast<double>(image.height) / static_cast<double>(spec.height));
    return {std::max<int64_t>(static_cast<int64_t>(static_cast<double>(image.height) / ratio), 1),
            std::max<int64_t>(static_cast<int64_t>(static_cast<double>(image.width) / ratio), 1)};
}

// Resized to `size`, then placed at the right and bottom of the target, on zeros.
std::vector<float> resize_with_padding(const ImageSpec& spec, const ImageView& image, Size size) {
    std::vector<float> result(3 * spec.height * spec.width, 0.0f);
    std::vector<Tap> rows = bilinear_taps(image.height, size.height);
    std::vector<Tap> columns = bilinear_taps(image.width, size.width);
    int64_t top = spec.height - size.height;
    int64_t left = spec.width - size.width;
    for (int64_t channel = 0; channel < 3; channel++) {
        auto pixel = [&](int64_t y, int64_t x) {
            return static_cast<float>(image.pixels[(y * image.width + x) * 3 + channel]) / 255.0f;
        };
        for (int64_t y = 0; y < size.height; y++) {
            const Tap& row = rows[y];
            float* target = &result[(channel * spec.height + top + y) * spec.width + left];
            for (int64_t x = 0; x < size.width; x++) {
                const Tap& column = columns[x];
                float w = column.high_weight;
                float upper =
                    (1 - w) * pixel(row.low, column.low) + w * pixel(row.low, column.high);
                float lower =
                    (1 - w) * pixel(row.high, column.low) + w * pixel(row.high, column.high);
                target[x] = (1 - row.high_weight) * upper + row.high_weight * lower;
            }
        }
    }
    return result;
}

std::vector<float> planes(const ImageView& image) {
    int64_t count = image.height * image.width;
    std::vector<float> result(3 * count);
    for (int64_t channel = 0; channel < 3; channel++) {
        for (int64_t k = 0; k < count; k++) {
            result[channel * count + k] =
                static_cast<float>(image.pixels[k * 3 + channel]) / 255.0f;
        }
    }
    return result;
}

} // namespace

std::vector<float> preprocess_image(const ImageSpec& spec, const ImageView& image,
                                    const std::string& camera) {
    bool has_size = image.height == spec.height && image.width == spec.width;
    if (image.height < 1 || image.width < 1 || (spec.resize == Resize::none && !has_size)) {
        throw ArgumentError("the image " + camera + " is " + std::to_string(image.height) + "x" +
                            std::to_string(image.width) + " (height x width), expected " +
                            std::to_string(spec.height) + "x" + std::to_string(spec.width));
    }
    std::vector<float> values =
        has_size ? planes(image) : resize_with_padding(spec, image, size_within(image, spec));
    for (float& value : values) {
        value = value * spec.scale + spec.offset;
    }
    return values;
}

} // namespace actquant
