#pragma once

#include <cstdint>
#include <vector>

namespace actquant {

// RGB in 0 … 255 and one unused channel, so that a pixel fills one vector register.
template <typename Number> struct alignas(4 * sizeof(Number)) BasicPixel {
    Number channels[4] = {0, 0, 0, 0};
};

template <typename Number> struct BasicBitmap {
    BasicBitmap(int64_t height, int64_t width)
        : height(height), width(width), pixels(height * width) {}

    BasicPixel<Number>* row(int64_t y) { return &pixels[y * width]; }
    const BasicPixel<Number>* row(int64_t y) const { return &pixels[y * width]; }

    int64_t height;
    int64_t width;
    std::vector<BasicPixel<Number>> pixels;
};

using Pixel = BasicPixel<float>;
using Bitmap = BasicBitmap<float>;

enum class Filter { bilinear, bicubic, lanczos };
// To whole pixel values from 0 to 255: never, after the step, or after each of its two passes.
enum class Rounding { none, at_end, each_pass };

struct Resampling {
    Filter filter = Filter::bilinear;
    bool antialias = false;
    Rounding rounding = Rounding::none;
};

// Half-pixel centres. Without antialias as torch.nn.functional.interpolate, with it as its
// antialias=True and, rounded in each pass, as Pillow's Image.resize. What is rounded at the end is
// computed in double precision, so that no error of the arithmetic moves a value over the edge.
Bitmap resize(const Bitmap& source, int64_t height, int64_t width, const Resampling& how);

// The middle part with sides √fraction of the image's, read bilinearly at height × width points
// that include its corners (tf.image.crop_and_resize).
Bitmap crop_resize(const Bitmap& source, float fraction, int64_t height, int64_t width);

} // namespace actquant
