#include "golden.h"

#include <algorithm>

namespace actquant::tools {

GoldenInputs golden_inputs(Policy& policy, const Json& golden_case) {
    const Json& description = policy.description();
    std::vector<std::string> masked =
        golden_case.value("masked_cameras", std::vector<std::string>());
    std::vector<std::string> cameras = policy.cameras();
    int64_t height = description["image"]["source_height"];
    int64_t width = description["image"]["source_width"];
    size_t steps = policy.observation_steps(), image_bytes = 3 * height * width;
    std::vector<uint8_t> pixels(steps * cameras.size() * image_bytes);
    size_t noise_count = 1;
    for (const Json& size : description["noise_shape"]) {
        noise_count *= size.get<size_t>();
    }
    GoldenInputs inputs;
    inputs.observation.task = golden_case.value("prompt", "");
    inputs.observation.state.resize(steps * policy.state_dim());
    inputs.noise.values.resize(noise_count);
    policy.fill_golden(golden_case.at("seed"), pixels, inputs.observation.state,
                       inputs.noise.values);
    for (size_t k = 0; k < steps * cameras.size(); k++) {
        const std::string& camera = cameras[k % cameras.size()];
        if (std::find(masked.begin(), masked.end(), camera) != masked.end()) {
            inputs.observation.images.push_back(std::nullopt);
            continue;
        }
        auto begin = pixels.begin() + static_cast<std::ptrdiff_t>(k * image_bytes);
        inputs.observation.images.push_back(
            Image{height, width, {begin, begin + static_cast<std::ptrdiff_t>(image_bytes)}});
    }
    return inputs;
}

} // namespace actquant::tools
