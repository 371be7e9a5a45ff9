#include "inputs/image_resize.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace actquant {
namespace {

// What every output coordinate along one axis reads: `count` weighted source coordinates.
template <typename Number> class Taps {
  public:
    Taps(int64_t target, int64_t most) : stride(most), firsts(target), counts(target) {
        weights.resize(target * most);
    }

    void set(int64_t k, int64_t first, int64_t count) {
        firsts[k] = first;
        counts[k] = count;
    }
    Number* weights_of(int64_t k) { return &weights[k * stride]; }
    const Number* weights_of(int64_t k) const { return &weights[k * stride]; }
    int64_t first(int64_t k) const { return firsts[k]; }
    int64_t count(int64_t k) const { return counts[k]; }
    int64_t size() const { return static_cast<int64_t>(firsts.size()); }

  private:
    int64_t stride;
    std::vector<int64_t> firsts;
    std::vector<int64_t> counts;
    std::vector<Number> weights;
};

// Keys' cubic convolution.
double cubic(double x, double a) {
    x = std::abs(x);
    if (x < 1) {
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    }
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

double sinc(double x) {
    return x == 0 ? 1 : std::sin(std::numbers::pi * x) / (std::numbers::pi * x);
}

double kernel_radius(Filter filter) {
    return filter == Filter::bilinear ? 1 : filter == Filter::bicubic ? 2 : 3;
}

double kernel(Filter filter, double x) {
    switch (filter) {
    case Filter::bilinear:
        return std::max(1 - std::abs(x), 0.0);
    case Filter::bicubic:
        return cubic(x, -0.5);
    case Filter::lanczos:
        return std::abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0;
    }
    return 0;
}

// The kernel is as wide as the ratio when it shrinks; what lies outside is left out.
template <typename Number>
Taps<Number> antialiased_taps(int64_t source, int64_t target, Filter filter) {
    double ratio = static_cast<double>(source) / static_cast<double>(target);
    double widening = std::max(ratio, 1.0);
    double radius = kernel_radius(filter) * widening;
    Taps<Number> taps(target, 2 * static_cast<int64_t>(std::ceil(radius)) + 1);
    for (int64_t k = 0; k < target; k++) {
        double center = (static_cast<double>(k) + 0.5) * ratio;
        int64_t first = std::max<int64_t>(static_cast<int64_t>(center - radius + 0.5), 0);
        int64_t end = std::min(static_cast<int64_t>(center + radius + 0.5), source);
        taps.set(k, first, end - first);
        double sum = 0;
        std::vector<double> weights(end - first);
        for (int64_t i = 0; i < end - first; i++) {
            weights[i] = kernel(filter, (static_cast<double>(first + i) - center + 0.5) / widening);
            sum += weights[i];
        }
        for (int64_t i = 0; i < end - first; i++) {
            taps.weights_of(k)[i] = static_cast<Number>(weights[i] / sum);
        }
    }
    return taps;
}

// 2 or 4 neighbours, those outside moved to the border. In f32, as PyTorch computes positions.
template <typename Number>
Taps<Number> neighbour_taps(int64_t source, int64_t target, Filter filter) {
    int64_t reach = filter == Filter::bilinear ? 1 : 2;
    Taps<Number> taps(target, 2 * reach);
    float ratio = static_cast<float>(source) / static_cast<float>(target);
    for (int64_t k = 0; k < target; k++) {
        float position = ratio * (static_cast<float>(k) + 0.5f) - 0.5f;
        float floor = std::floor(position);
        float fraction = position - floor;
        int64_t first = static_cast<int64_t>(floor) - reach + 1;
        int64_t low = std::clamp<int64_t>(first, 0, source - 1);
        int64_t high = std::clamp<int64_t>(first + 2 * reach - 1, 0, source - 1);
        taps.set(k, low, high - low + 1);
        for (int64_t i = 0; i < 2 * reach; i++) {
            double distance = static_cast<double>(i - reach + 1) - static_cast<double>(fraction);
            double weight = filter == Filter::bilinear ? kernel(Filter::bilinear, distance)
                                                       : cubic(distance, -0.75);
            int64_t place = std::clamp<int64_t>(first + i, low, high) - low;
            taps.weights_of(k)[place] += static_cast<Number>(weight);
        }
    }
    return taps;
}

template <typename Number>
Taps<Number> resize_taps(int64_t source, int64_t target, const Resampling& how) {
    return how.antialias ? antialiased_taps<Number>(source, target, how.filter)
                         : neighbour_taps<Number>(source, target, how.filter);
}

// `target` points from `start` to `end`, both relative to the distance of the outermost pixels.
Taps<float> corner_taps(int64_t source, int64_t target, float start, float end) {
    Taps<float> taps(target, 2);
    float last = static_cast<float>(source - 1);
    float step = target > 1 ? (end - start) * last / static_cast<float>(target - 1) : 0.0f;
    float origin = target > 1 ? start * last : 0.5f * (start + end) * last;
    for (int64_t k = 0; k < target; k++) {
        float position = std::clamp(origin + static_cast<float>(k) * step, 0.0f, last);
        int64_t low = static_cast<int64_t>(position);
        int64_t high = std::min(low + 1, source - 1);
        float fraction = position - static_cast<float>(low);
        taps.set(k, low, high - low + 1);
        taps.weights_of(k)[0] = 1 - fraction;
        taps.weights_of(k)[high - low] += fraction;
    }
    return taps;
}

template <typename Number>
BasicBitmap<Number> filter_columns(const BasicBitmap<Number>& source, const Taps<Number>& taps) {
    BasicBitmap<Number> result(source.height, taps.size());
    for (int64_t y = 0; y < source.height; y++) {
        const BasicPixel<Number>* row = source.row(y);
        BasicPixel<Number>* target = result.row(y);
        for (int64_t x = 0; x < taps.size(); x++) {
            const BasicPixel<Number>* pixels = row + taps.first(x);
            const Number* weights = taps.weights_of(x);
            BasicPixel<Number> sum;
            for (int64_t i = 0; i < taps.count(x); i++) {
                for (int c = 0; c < 4; c++) {
                    sum.channels[c] += weights[i] * pixels[i].channels[c];
                }
            }
            target[x] = sum;
        }
    }
    return result;
}

template <typename Number>
BasicBitmap<Number> filter_rows(const BasicBitmap<Number>& source, const Taps<Number>& taps) {
    BasicBitmap<Number> result(taps.size(), source.width);
    int64_t numbers = source.width * 4;
    for (int64_t y = 0; y < taps.size(); y++) {
        Number* target = result.row(y)->channels;
        for (int64_t i = 0; i < taps.count(y); i++) {
            const Number* row = source.row(taps.first(y) + i)->channels;
            Number weight = taps.weights_of(y)[i];
            for (int64_t x = 0; x < numbers; x++) {
                target[x] += weight * row[x];
            }
        }
    }
    return result;
}

// Half to even, as PyTorch, NumPy and TensorFlow round.
Bitmap rounded_to_bytes(const BasicBitmap<double>& bitmap) {
    // Adding and taking away 1.5·2⁵² does it, and unlike std::nearbyint it is vectorized.
    constexpr double magic = 6755399441055744.0;
    Bitmap result(bitmap.height, bitmap.width);
    for (size_t k = 0; k < result.pixels.size(); k++) {
        for (int c = 0; c < 4; c++) {
            double value = std::clamp(bitmap.pixels[k].channels[c], 0.0, 255.0);
            result.pixels[k].channels[c] = static_cast<float>((value + magic) - magic);
        }
    }
    return result;
}

BasicBitmap<double> widened(const Bitmap& bitmap) {
    BasicBitmap<double> result(bitmap.height, bitmap.width);
    for (size_t k = 0; k < result.pixels.size(); k++) {
        std::copy_n(bitmap.pixels[k].channels, 4, result.pixels[k].channels);
    }
    return result;
}

// Half up, as Pillow rounds.
void round_up_to_bytes(Bitmap& bitmap) {
    for (Pixel& pixel : bitmap.pixels) {
        for (float& value : pixel.channels) {
            value = static_cast<float>(static_cast<int>(std::clamp(value, 0.0f, 255.0f) + 0.5f));
        }
    }
}

} // namespace

Bitmap resize(const Bitmap& source, int64_t height, int64_t width, const Resampling& how) {
    if (how.rounding == Rounding::at_end) {
        auto wide = filter_columns(widened(source), resize_taps<double>(source.width, width, how));
        return rounded_to_bytes(filter_rows(wide, resize_taps<double>(source.height, height, how)));
    }
    Bitmap wide = filter_columns(source, resize_taps<float>(source.width, width, how));
    if (how.rounding == Rounding::each_pass) {
        round_up_to_bytes(wide);
    }
    Bitmap result = filter_rows(wide, resize_taps<float>(source.height, height, how));
    if (how.rounding == Rounding::each_pass) {
        round_up_to_bytes(result);
    }
    return result;
}

Bitmap crop_resize(const Bitmap& source, float fraction, int64_t height, int64_t width) {
    float side = std::sqrt(fraction);
    float start = (1 - side) / 2;
    float end = start + side;
    return filter_rows(filter_columns(source, corner_taps(source.width, width, start, end)),
                       corner_taps(source.height, height, start, end));
}

} // namespace actquant
