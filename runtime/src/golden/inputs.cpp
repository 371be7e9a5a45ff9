#include "golden/inputs.h"

#include "inputs/random.h"

#include <algorithm>

namespace actquant {
namespace {

constexpr int64_t GRID = 6;

// In [0, 1), with 24 random bits.
double draw(SplitMix64& random) {
    return static_cast<double>(random.next() >> 40) / (1 << 24);
}

// A grid of random colours, [height, width, 3].
void draw_image(SplitMix64& random, int64_t height, int64_t width, uint8_t* pixels) {
    uint8_t cells[GRID * GRID * 3];
    for (uint8_t& cell : cells) {
        cell = static_cast<uint8_t>(256 * draw(random));
    }
    for (int64_t y = 0; y < height; y++) {
        for (int64_t x = 0; x < width; x++) {
            const uint8_t* cell = &cells[(GRID * y / height * GRID + GRID * x / width) * 3];
            pixels = std::copy_n(cell, 3, pixels);
        }
    }
}

} // namespace

GoldenInputs make_golden_inputs(const GoldenLayout& layout, uint64_t seed) {
    SplitMix64 random(seed);
    size_t image_bytes = static_cast<size_t>(3 * layout.height * layout.width);
    GoldenInputs inputs;
    inputs.pixels.resize(layout.steps * layout.cameras * image_bytes);
    uint8_t* pixels = inputs.pixels.data();
    for (size_t step = 0; step < layout.steps; step++) {
        for (size_t camera = 0; camera < layout.cameras; camera++) {
            draw_image(random, layout.height, layout.width, pixels);
            pixels += image_bytes;
        }
        for (size_t k = 0; k < layout.state_mean.size(); k++) {
            double normalised = 4 * draw(random) - 2;
            inputs.state.push_back(
                static_cast<float>(layout.state_mean[k] + layout.state_deviation[k] * normalised));
        }
    }
    for (size_t k = 0; k < layout.noise_count; k++) {
        double sum = 0;
        for (int number = 0; number < 12; number++) {
            sum += draw(random);
        }
        inputs.noise.push_back(static_cast<float>(sum - 6));
    }
    return inputs;
}

} // namespace actquant
