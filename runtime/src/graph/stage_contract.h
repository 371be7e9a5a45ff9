#pragma once

#include "graph/stages.h"

namespace actquant {

// Checks that the stages, built for this prompt length, take what the driver gives and give what it
// takes. Throws FileError with everything that does not fit.
void check_stage_contract(const PolicySpec& spec, Stages& stages, int64_t prompt_length);

} // namespace actquant
