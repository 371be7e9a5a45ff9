#pragma once

#include "kernels/isa.h"

#include <map>
#include <string>

namespace actquant {

// What this machine can reach with so many threads: multiplications and additions a second of each
// kind of product (f32, bfloat16, int8), by our inner loops with all operands in the first cache;
// and bytes a second that come from memory (memory). Measured anew, in a few tenths of a second.
std::map<std::string, double> measure_reach(Isa isa, int threads);

} // namespace actquant
