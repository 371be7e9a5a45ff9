#pragma once

#include "policy.h"

namespace actquant::tools {

// The observation and noise that every reader makes from a seed (docs/format.md, "Golden inputs").
struct GoldenInputs {
    Observation observation;
    Noise noise;
};
GoldenInputs golden_inputs(const Json& description, const Json& golden_case);

// ‖a − b‖ / ‖b‖ over the normalised actions; b is a case's JSON.
double relative_error(const Json& description, const Actions& actions, const Json& expected);

} // namespace actquant::tools
