#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace actquant {

// What golden inputs depend on beside their seed.
struct GoldenLayout {
    size_t steps = 1;
    size_t cameras = 0;
    int64_t height = 0;
    int64_t width = 0;
    std::vector<double> state_mean;
    std::vector<double> state_deviation;
    size_t noise_count = 0;
};

// The observation and noise that every reader makes from a seed (docs/format.md, "Golden inputs").
struct GoldenInputs {
    std::vector<uint8_t> pixels; // [steps, cameras, height, width, 3], oldest step first
    std::vector<float> state;    // [steps, state dimension], in the robot's units
    std::vector<float> noise;
};

GoldenInputs make_golden_inputs(const GoldenLayout& layout, uint64_t seed);

} // namespace actquant
