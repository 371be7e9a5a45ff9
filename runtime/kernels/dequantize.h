#pragma once

#include "kernels/isa.h"

#include <ggml.h>

namespace actquant {

using ToFloat = void (*)(const void* blocks, float* weights, int64_t count);

// Blocks of a type to floats, as ggml's own conversion does it but several times as fast; ggml's
// where there is no other.
ToFloat to_float(Isa isa, ggml_type type);

} // namespace actquant
