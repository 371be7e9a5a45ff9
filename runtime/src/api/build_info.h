#pragma once

#include <string>

namespace actquant {

// JSON: versions, the CPU features compiled in, the hardware threads.
std::string build_info();

// Throws Error when this CPU lacks instructions that ggml was compiled for. Must be called before
// anything of ggml runs.
void check_cpu();

} // namespace actquant
