#pragma once

#include "policy.h"

namespace actquant::tools {

struct GoldenInputs {
    Observation observation;
    Noise noise;
};

// The inputs of a golden case {seed, prompt, masked_cameras}.
GoldenInputs golden_inputs(Policy& policy, const Json& golden_case);

} // namespace actquant::tools
