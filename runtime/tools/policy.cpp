#include "policy.h"

#include <cstdio>
#include <stdexcept>

namespace actquant::tools {
namespace {

void check(aq_status status) {
    if (status != AQ_OK) {
        throw std::runtime_error(aq_last_error());
    }
}

void warn_of_operators_on_cpu(const std::string& path, const Json& description) {
    std::string names;
    for (const Json& name : description["operators_on_cpu"]) {
        names += (names.empty() ? "" : ", ") + name.get<std::string>();
    }
    if (!names.empty()) {
        std::fprintf(stderr, "%s: %s leaves to the processor: %s\n", path.c_str(),
                     description["device"].get<std::string>().c_str(), names.c_str());
    }
}

} // namespace

Policy::Policy(const std::string& path, int threads, const std::string& device) {
    aq_session* opened = nullptr;
    check(aq_open_on(path.c_str(), threads, device.c_str(), &opened));
    session.reset(opened);
    parsed = Json::parse(aq_describe(opened));
    for (const char* key : {"provenance", "allocation", "golden"}) {
        parsed[key] = Json::parse(parsed[key].get<std::string>());
    }
    warn_of_operators_on_cpu(path, parsed);
}

// Points into the observation and `images`.
aq_observation Policy::input_of(const Observation& observation,
                                std::vector<aq_image>& images) const {
    for (const std::optional<Image>& image : observation.images) {
        images.push_back(image ? aq_image{image->pixels.data(), image->height, image->width}
                               : aq_image{});
    }
    aq_observation input{};
    input.images = images.data();
    input.image_count = images.size();
    input.state = observation.state.data();
    input.state_count = observation.state.size();
    input.task = has_language() ? observation.task.c_str() : nullptr;
    return input;
}

Actions Policy::act(const Observation& observation, const Noise& noise) {
    std::vector<aq_image> images;
    aq_observation input = input_of(observation, images);
    aq_noise start{};
    start.values = noise.values.empty() ? nullptr : noise.values.data();
    start.count = noise.values.size();
    start.seed = noise.seed.value_or(0);
    start.has_seed = noise.seed.has_value();

    size_t rows = parsed["action"]["chunk_length"];
    size_t columns = parsed["action"]["names"].size();
    std::vector<float> values(rows * columns);
    check(aq_act(session.get(), &input, &start, values.data(), values.size()));
    Actions actions(rows);
    for (size_t k = 0; k < rows; k++) {
        auto row = values.begin() + static_cast<std::ptrdiff_t>(k * columns);
        actions[k].assign(row, row + static_cast<std::ptrdiff_t>(columns));
    }
    return actions;
}

void Policy::fill_golden(uint64_t seed, std::vector<uint8_t>& pixels, std::vector<float>& state,
                         std::vector<float>& noise) const {
    check(aq_golden_inputs(session.get(), seed, pixels.data(), pixels.size(), state.data(),
                           state.size(), noise.data(), noise.size()));
}

Json Policy::profile(const Observation& observation, int runs) {
    std::vector<aq_image> images;
    aq_observation input = input_of(observation, images);
    const char* json = nullptr;
    check(aq_profile(session.get(), &input, runs, &json));
    return Json::parse(json);
}

aq_self_test_result Policy::self_test() {
    aq_self_test_result result{};
    check(aq_self_test(session.get(), &result));
    return result;
}

} // namespace actquant::tools
