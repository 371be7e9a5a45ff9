#pragma once

#include <cstddef>
#include <cstdint>

namespace actquant::fuzzing {

// Changes one thing or a few in a policy file and writes it again as a whole GGUF.
size_t mutate_policy(uint8_t* data, size_t size, size_t most, unsigned seed);

} // namespace actquant::fuzzing
