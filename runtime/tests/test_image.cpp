#include "check.h"
#include "common/error.h"
#include "inputs/image.h"
#include "inputs/random.h"

#include <cmath>

using namespace actquant;

static std::string refusal(const std::string& step) {
    return message_of<FileError>([&] { parse_image_steps({step}); });
}

static void scales_and_reorders() {
    uint8_t pixels[] = {0, 255, 51, 102, 0, 0};
    ImageSpec spec{1, 2, {}, 2.0f, -1.0f};
    std::vector<float> values = preprocess_image(spec, {pixels, 1, 2}, "camera");
    std::vector<float> wanted = {-1.0f, -0.2f, 1.0f, -1.0f, -0.6f, -1.0f};
    for (size_t k = 0; k < wanted.size(); k++) {
        CHECK(std::abs(values[k] - wanted[k]) < 1e-6f);
    }
}

static void pads_before_scaling() {
    std::vector<uint8_t> white(4 * 2 * 3, 255);
    auto pad = [](const std::string& anchor) {
        return parse_image_steps({"resize_pad height=4 width=4 filter=bilinear antialias=0 round=0 "
                                  "value=0 anchor=" +
                                  anchor});
    };
    ImageSpec spec{4, 4, pad("end"), 2.0f, -1.0f};
    std::vector<float> tall = preprocess_image(spec, {white.data(), 4, 2}, "camera");
    CHECK(tall[0] == -1.0f && tall[1] == -1.0f && tall[2] == 1.0f && tall[3] == 1.0f);
    std::vector<float> flat = preprocess_image(spec, {white.data(), 2, 4}, "camera");
    CHECK(flat[0] == -1.0f && flat[7] == -1.0f && flat[8] == 1.0f && flat[15] == 1.0f);
    spec.steps = pad("center");
    tall = preprocess_image(spec, {white.data(), 4, 2}, "camera");
    CHECK(tall[0] == -1.0f && tall[1] == 1.0f && tall[2] == 1.0f && tall[3] == -1.0f);
}

static void crops_the_middle_with_half_to_even() {
    std::vector<uint8_t> ramp(7 * 3);
    for (int k = 0; k < 7; k++) {
        ramp[3 * k] = static_cast<uint8_t>(k);
    }
    auto first_of = [&](int64_t source, int64_t width) {
        ImageSpec spec{1, width,
                       parse_image_steps({"center_crop height=1 width=" + std::to_string(width)}),
                       255.0f, 0.0f};
        return preprocess_image(spec, {ramp.data(), 1, source}, "camera")[0];
    };
    CHECK(first_of(7, 3) == 2 && first_of(7, 4) == 2 && first_of(7, 6) == 0 && first_of(5, 2) == 2);
}

static void refuses_what_does_not_fit() {
    uint8_t pixel[3] = {};
    std::string message = message_of<ArgumentError>(
        [&] { preprocess_image({2, 2, {}, 1, 0}, {pixel, 1, 1}, "observation.images.wrist"); });
    CHECK(contains(message, "observation.images.wrist is 1x1 (height x width), expected 2x2"));
    ImageSpec spec{2, 2, parse_image_steps({"center_crop height=2 width=2"}), 1, 0};
    message = message_of<ArgumentError>([&] { preprocess_image(spec, {pixel, 1, 1}, "wrist"); });
    CHECK(contains(message, "wrist is 1x1 (height x width) where its middle 2x2"));
}

static void refuses_steps_it_does_not_know() {
    CHECK(contains(refusal("warp height=1"), "there are center_crop, crop_resize, resize and"));
    CHECK(contains(refusal("center_crop height=1"), "the attribute width is missing"));
    CHECK(contains(refusal("center_crop height=1 width=0"), "no number from 1 to"));
    CHECK(contains(refusal("center_crop height=1 width=2.5"), "must be a whole number"));
    CHECK(contains(refusal("center_crop height=1 width=2 round=1"), "no attribute 'round'"));
    CHECK(contains(refusal("center_crop height=1 width"), "'width' is no key=value"));
    CHECK(contains(refusal("crop_resize fraction=2 height=1 width=1"), "fraction=2 is no number"));
    CHECK(contains(refusal("resize height=1 width=1 filter=nearest antialias=0 round=0"),
                   "filter=nearest is unknown; it may be bicubic, bilinear, lanczos"));
    CHECK(contains(refusal("resize height=1 width=1 filter=lanczos antialias=0 round=0"),
                   "lanczos needs antialias=1"));
    std::string both =
        message_of<FileError>([&] { parse_image_steps({"warp", "center_crop height=1"}); });
    CHECK(contains(both, "'warp'") && contains(both, "'center_crop height=1'"));
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
    pads_before_scaling();
    crops_the_middle_with_half_to_even();
    refuses_what_does_not_fit();
    refuses_steps_it_does_not_know();
    draws_a_normal_distribution();
}
