#include "backend/devices.h"

#include "common/error.h"

#include <ggml-backend.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>

namespace actquant {
namespace {

struct Kind {
    const char* name;
    const char* title;
    const char* build_option;
    bool is_built;
};

constexpr std::array kinds = {
#ifdef GGML_USE_VULKAN
    Kind{"vulkan", "Vulkan", "-DACTQUANT_VULKAN=ON", true},
#else
    Kind{"vulkan", "Vulkan", "-DACTQUANT_VULKAN=ON", false},
#endif
#ifdef GGML_USE_CUDA
    Kind{"cuda", "CUDA", "-DACTQUANT_CUDA=ON", true},
#else
    Kind{"cuda", "CUDA", "-DACTQUANT_CUDA=ON", false},
#endif
};

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return text;
}

// Backends tell about every device that they find; only what goes wrong is worth a line.
void log_problems(ggml_log_level level, const char* text, void*) {
    if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) {
        std::fputs(text, stderr);
    }
}

bool is_of_kind(const Device& device, const std::string& kind) {
    return device.name.starts_with(kind) && device.name.size() > kind.size() &&
           std::all_of(device.name.begin() + static_cast<std::ptrdiff_t>(kind.size()),
                       device.name.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

std::string listed(const std::vector<Device>& devices) {
    std::string text;
    for (const Device& device : devices) {
        text += (text.empty() ? "" : ", ") + device.name;
        text += device.description.empty() ? "" : " (" + device.description + ")";
    }
    return text;
}

} // namespace

std::vector<Device> present_devices() {
    std::vector<Device> found = {{"cpu", "", nullptr}};
    if (std::none_of(kinds.begin(), kinds.end(), [](const Kind& kind) { return kind.is_built; })) {
        return found;
    }
    ggml_log_set(log_problems, nullptr);
    for (size_t k = 0; k < ggml_backend_dev_count(); k++) {
        ggml_backend_dev_t handle = ggml_backend_dev_get(k);
        auto type = ggml_backend_dev_type(handle);
        if (type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU) {
            found.push_back({lower(ggml_backend_dev_name(handle)),
                             ggml_backend_dev_description(handle), handle});
        }
    }
    return found;
}

Device find_device(const std::string& name) {
    if (name == "cpu") {
        return {"cpu", "", nullptr}; // without a look at any driver
    }
    std::vector<Device> devices = present_devices();
    if (name == "auto") {
        return devices.size() > 1 ? devices[1] : devices[0];
    }
    for (const Device& device : devices) {
        if (device.name == name || is_of_kind(device, name)) {
            return device;
        }
    }
    std::string why;
    for (const Kind& kind : kinds) {
        if (name.starts_with(kind.name) && !kind.is_built) {
            why = std::string(" (this build does without ") + kind.title + ": " +
                  kind.build_option + ")";
        }
    }
    throw ArgumentError("there is no device '" + name + "'" + why +
                        "; there are: " + listed(devices) + ", and auto");
}

} // namespace actquant
