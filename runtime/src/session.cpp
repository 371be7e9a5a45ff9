#include "session.h"

#include "error.h"
#include "random.h"

#include <cmath>
#include <random>

namespace actquant {
namespace {

// The only driver of format version 1.
PolicySpec read_supported_policy(const ModelFile& file) {
    PolicySpec spec = read_policy_spec(file);
    if (spec.driver != "flow_matching") {
        throw FileError("'" + file.path() + "' wants the driver '" + spec.driver +
                        "'; this runtime has flow_matching");
    }
    return spec;
}

void check_finite(const std::string& name, const std::vector<float>& values) {
    for (size_t k = 0; k < values.size(); k++) {
        if (!std::isfinite(values[k])) {
            throw ArgumentError(name + "[" + std::to_string(k) + "] is " +
                                std::to_string(values[k]));
        }
    }
}

void check_count(const std::string& name, size_t actual, int64_t expected) {
    if (actual != static_cast<size_t>(expected)) {
        throw ArgumentError(name + " has " + std::to_string(actual) + " elements, expected " +
                            std::to_string(expected));
    }
}

std::vector<float> normalize(const VectorSpec& layout, double eps,
                             const std::vector<float>& values) {
    std::vector<float> result(layout.padded_dim, 0.0f);
    for (int64_t k = 0; k < layout.dim(); k++) {
        result[k] = static_cast<float>((static_cast<double>(values[k]) - layout.mean[k]) /
                                       (layout.standard_deviation[k] + eps));
    }
    return result;
}

// Cuts the padding off every row and undoes the normalisation.
std::vector<float> unnormalize(const VectorSpec& layout, const std::vector<float>& rows) {
    std::vector<float> result;
    for (size_t k = 0; k < rows.size(); k++) {
        int64_t column = static_cast<int64_t>(k) % layout.padded_dim;
        if (column < layout.dim()) {
            double scale = layout.standard_deviation[column];
            result.push_back(static_cast<float>(rows[k] * scale + layout.mean[column]));
        }
    }
    return result;
}

uint64_t random_seed() {
    std::random_device source;
    return (static_cast<uint64_t>(source()) << 32) | source();
}

} // namespace

Session::Session(const std::string& path, int threads)
    : file(path), spec(read_supported_policy(file)), device(threads, spec.parameter_count),
      driver(spec, file, device) {}

void Session::check(const Observation& observation) const {
    check_count("the list of images", observation.images.size(),
                static_cast<int64_t>(spec.cameras.size()));
    int64_t missing_count = 0;
    std::string missing;
    for (size_t k = 0; k < spec.cameras.size(); k++) {
        if (observation.images[k].pixels == nullptr) {
            missing += " " + spec.cameras[k];
            missing_count++;
        }
    }
    if (missing_count > spec.optional_cameras) {
        throw ArgumentError("the observation lacks" + missing + "; this policy allows " +
                            std::to_string(spec.optional_cameras) + " camera(s) to be absent");
    }
    check_count("observation.state", observation.state.size(), spec.state.dim());
    check_finite("observation.state", observation.state);
    check_count("tokens", observation.tokens.size(), spec.max_prompt_length);
    check_count("token_mask", observation.token_mask.size(), spec.max_prompt_length);
}

std::vector<float> Session::act(const Observation& observation, std::vector<float> noise,
                                std::optional<uint64_t> seed) {
    check(observation);
    int64_t noise_count = spec.chunk_length * spec.action.padded_dim;
    if (noise.empty()) {
        noise = standard_normal(seed ? *seed : random_seed(), noise_count);
    }
    check_count("noise", noise.size(), noise_count);
    check_finite("noise", noise);
    std::vector<float> state = normalize(spec.state, spec.normalization_eps, observation.state);
    check_finite("the normalised observation.state", state);

    std::lock_guard<std::mutex> lock(mutex);
    Timings timings;
    std::vector<float> chunk = driver.act(observation, state, std::move(noise), timings);
    last_timings = timings;
    std::vector<float> actions = unnormalize(spec.action, chunk);
    for (size_t k = 0; k < actions.size(); k++) {
        if (!std::isfinite(actions[k])) {
            int64_t dim = spec.action.dim();
            throw Error("the policy gave a non-finite action: step " +
                        std::to_string(static_cast<int64_t>(k) / dim) + ", " +
                        spec.action.names[k % dim]);
        }
    }
    return actions;
}

std::map<std::string, Array> Session::run_stage(const std::string& stage,
                                                const std::map<std::string, ArrayView>& inputs) {
    std::lock_guard<std::mutex> lock(mutex);
    return driver.run_stage(stage, inputs);
}

Timings Session::timings() const {
    std::lock_guard<std::mutex> lock(mutex);
    return last_timings;
}

} // namespace actquant
