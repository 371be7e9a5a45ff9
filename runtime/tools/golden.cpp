#include "golden.h"

#include <algorithm>
#include <cmath>

namespace actquant::tools {
namespace {

class SplitMix64 {
  public:
    explicit SplitMix64(uint64_t seed) : state(seed) {}

    // In [0, 1), with 24 random bits.
    double uniform() { return static_cast<double>(next() >> 40) / (1 << 24); }

  private:
    uint64_t next() {
        state += 0x9e3779b97f4a7c15u;
        uint64_t z = state;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }

    uint64_t state;
};

// A grid of 6 × 6 random colours.
Image random_image(SplitMix64& generator, int64_t height, int64_t width) {
    constexpr int64_t grid = 6;
    uint8_t cells[grid * grid * 3];
    for (uint8_t& cell : cells) {
        cell = static_cast<uint8_t>(256 * generator.uniform());
    }
    Image image{height, width, std::vector<uint8_t>(3 * height * width)};
    for (int64_t y = 0; y < height; y++) {
        for (int64_t x = 0; x < width; x++) {
            const uint8_t* cell = &cells[(grid * y / height * grid + grid * x / width) * 3];
            std::copy_n(cell, 3, &image.pixels[(y * width + x) * 3]);
        }
    }
    return image;
}

} // namespace

GoldenInputs golden_inputs(const Json& description, const Json& golden_case) {
    SplitMix64 generator(golden_case.at("seed").get<uint64_t>());
    std::vector<std::string> masked =
        golden_case.value("masked_cameras", std::vector<std::string>());
    const Json& image = description["image"];
    std::vector<double> mean = description["state"]["mean"];
    std::vector<double> deviation = description["state"]["std"];
    std::vector<std::string> cameras = description["cameras"];
    GoldenInputs inputs;
    inputs.observation.task = golden_case.value("prompt", "");
    for (size_t step = 0; step < description["observation_steps"]; step++) {
        for (const std::string& camera : cameras) {
            Image drawn = random_image(generator, image["source_height"], image["source_width"]);
            bool is_masked = std::find(masked.begin(), masked.end(), camera) != masked.end();
            inputs.observation.images.push_back(is_masked ? std::nullopt
                                                          : std::optional(std::move(drawn)));
        }
        for (size_t k = 0; k < mean.size(); k++) {
            double normalised = 4 * generator.uniform() - 2;
            inputs.observation.state.push_back(
                static_cast<float>(mean[k] + deviation[k] * normalised));
        }
    }
    size_t count = 1;
    for (const Json& size : description["noise_shape"]) {
        count *= size.get<size_t>();
    }
    for (size_t k = 0; k < count; k++) {
        double sum = -6;
        for (int draw = 0; draw < 12; draw++) {
            sum += generator.uniform();
        }
        inputs.noise.values.push_back(static_cast<float>(sum));
    }
    return inputs;
}

double relative_error(const Json& description, const Actions& actions, const Json& expected) {
    std::vector<double> deviation = description["action"]["std"];
    std::vector<double> mean = description["action"]["mean"];
    double eps = description["normalization_eps"];
    double difference = 0, norm = 0;
    for (size_t row = 0; row < actions.size(); row++) {
        for (size_t k = 0; k < mean.size(); k++) {
            double scale = deviation[k] + eps;
            double wanted = expected.at(row).at(k).get<double>();
            difference += std::pow((actions[row][k] - wanted) / scale, 2);
            norm += std::pow((wanted - mean[k]) / scale, 2);
        }
    }
    return std::sqrt(difference) / std::max(std::sqrt(norm), 1e-12);
}

} // namespace actquant::tools
