#pragma once

#include <string>
#include <vector>

struct ggml_backend_device;

namespace actquant {

// What a policy can be computed on.
struct Device {
    std::string name;                      // "cpu", or "vulkan0", "cuda1": its kind and number
    std::string description;               // what its driver calls it; empty for the processor
    ggml_backend_device* handle = nullptr; // null for the processor
};

// The processor, and the GPUs of this machine that this build can compute on.
std::vector<Device> present_devices();

// "cpu"; "auto": the first GPU, or else the processor; "vulkan" or "cuda": the first of the kind;
// "vulkan1": one of several. Throws ArgumentError, which names what there is.
Device find_device(const std::string& name);

} // namespace actquant
