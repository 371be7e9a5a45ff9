#include "check.h"
#include "error.h"
#include "image.h"
#include "random.h"

using namespace actquant;

static void scales_and_reorders() {
    uint8_t pixels[] = {0, 255, 51, 102, 0, 0};
    ImageSpec spec{1, 2, Resize::none, 2.0f, -1.0f};
    std::vector<float> values = preprocess_image(spec, {pixels, 1, 2}, "camera");
    std::vector<float> wanted = {-1.0f, -0.2f, 1.0f, -1.0f, -0.6f, -1.0f};
    for (size_t k = 0; k < wanted.size(); k++) {
        CHECK(std::abs(values[k] - wanted[k]) < 1e-6f);
    }
}

static void pads_left_and_top_before_scaling() {
    std::vector<uint8_t> white(4 * 2 * 3, 255);
    ImageSpec spec{4, 4, Resize::pad, 2.0f, -1.0f};
    std::vector<float> tall = preprocess_image(spec, {white.data(), 4, 2}, "camera");
    CHECK(tall[0] == -1.0f && tall[1] == -1.0f && tall[2] == 1.0f && tall[3] == 1.0f);
    std::vector<float> flat = preprocess_image(spec, {white.data(), 2, 4}, "camera");
    CHECK(flat[0] == -1.0f && flat[7] == -1.0f && flat[8] == 1.0f && flat[15] == 1.0f);
}

static void refuses_another_size() {
    uint8_t pixel[3] = {};
    std::string message = message_of<ArgumentError>([&] {
        preprocess_image({2, 2, Resize::none, 1, 0}, {pixel, 1, 1}, "observation.images.wrist");
    });
    CHECK(contains(message, "observation.images.wrist is 1x1"));
}

static void draws_a_normal_distribution() {
    std::vector<float> values = standard_normal(1, 100001);
    double sum = 0, squares = 0;
    for (float value : values) {
        sum += value;
        squares += value * value;
    }
    double count = static_cast<double>(values.size());
    CHECK(std::abs(sum / count) < 0.015 && std::abs(squares / count - 1) < 0.02);
    CHECK(values == standard_normal(1, 100001) && values != standard_normal(2, 100001));
    CHECK(SplitMix64(0).next() == 0xe220a8397b1dcdafu); // the reference implementation's first
}

int main() {
    scales_and_reorders();
    pads_left_and_top_before_scaling();
    refuses_another_size();
    draws_a_normal_distribution();
}
