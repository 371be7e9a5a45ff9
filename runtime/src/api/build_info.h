#pragma once

#include <string>

namespace actquant {

// JSON: versions, the CPU features compiled in, the devices that can be computed on, the hardware
// threads.
std::string build_info();

// Throws Error when this CPU lacks instructions that ggml was compiled for. Must be called before
// anything else of ggml runs: by the Python module when it is loaded, by aq_open.
void check_cpu();

} // namespace actquant
