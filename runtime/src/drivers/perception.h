#pragma once

#include "drivers/driver.h"

namespace actquant {

// Runs `vision` for every image that is present, then `prefix`.
void perceive(const PolicySpec& spec, Stages& stages, const PolicyInput& input, Timings& timings);

// The elements of an f32 output.
std::vector<float> floats_of(const Stage& stage, const std::string& output);

} // namespace actquant
