#include "api/session.h"

#include "common/error.h"
#include "common/limits.h"
#include "inputs/random.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace actquant {
namespace {

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

// Rows in the robot's units to rows that are normalised, clamped and padded with zeros.
std::vector<float> normalize(const PolicySpec& spec, const std::vector<float>& rows) {
    const VectorSpec& layout = spec.state;
    std::vector<float> result(spec.observation_steps * layout.padded_dim, 0.0f);
    for (size_t k = 0; k < rows.size(); k++) {
        int64_t row = static_cast<int64_t>(k) / layout.dim();
        int64_t column = static_cast<int64_t>(k) % layout.dim();
        double scale = layout.standard_deviation[column] + spec.normalization_eps;
        float x = static_cast<float>((static_cast<double>(rows[k]) - layout.mean[column]) / scale);
        bool is_clamped = spec.state_clip > 0 && std::isfinite(x);
        result[row * layout.padded_dim + column] =
            is_clamped ? std::clamp(x, -spec.state_clip, spec.state_clip) : x;
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

std::unique_ptr<const Tokenizer> read_tokenizer(const ModelFile& file, const PolicySpec& spec) {
    if (!spec.has_language) {
        return nullptr;
    }
    try {
        return std::make_unique<const Tokenizer>(spec.tokenizer_json);
    } catch (const FileError& error) {
        throw FileError("'" + file.path() +
                        "' is not a valid policy:\n  - actquant.tokenizer.json cannot be read: " +
                        error.what());
    }
}

uint64_t random_seed() {
    std::random_device source;
    return (static_cast<uint64_t>(source()) << 32) | source();
}

// First what costs nothing.
PolicySpec read_whole(const ModelFile& file) {
    PolicySpec spec = read_policy_spec(file);
    file.check_tensors();
    return spec;
}

} // namespace

Session::Session(const std::string& path, int threads, const std::string& device) try
    : file(path), spec(read_whole(file)),
      backend(threads, spec.parameter_count, has_rounded_tensors(file), device),
      weights(file, backend, reads_of(spec)),
      stages(spec, weights, backend, gguf_get_data_offset(file.gguf())),
      driver(make_driver(spec, stages)), tokenizer(read_tokenizer(file, spec)) {
} catch (const std::bad_alloc&) {
    throw FileError("'" + path + "' needs more memory than there is");
} catch (const std::length_error&) {
    throw FileError("'" + path + "' needs more memory than there is");
}

void Session::check_images(const Observation& observation) const {
    check_count("the list of images", observation.images.size(), spec.image_count());
    int64_t missing_count = 0;
    std::string missing;
    for (size_t camera = 0; camera < spec.cameras.size(); camera++) {
        int64_t absent_steps = 0;
        for (int64_t step = 0; step < spec.observation_steps; step++) {
            absent_steps +=
                observation.images[step * spec.cameras.size() + camera].pixels == nullptr;
        }
        if (absent_steps > 0 && absent_steps < spec.observation_steps) {
            throw ArgumentError("the observation has " + spec.cameras[camera] +
                                " in some of its steps only");
        }
        if (absent_steps > 0) {
            missing += " " + spec.cameras[camera];
            missing_count++;
        }
    }
    if (missing_count > spec.optional_cameras) {
        throw ArgumentError("the observation lacks" + missing + "; this policy allows " +
                            std::to_string(spec.optional_cameras) + " camera(s) to be absent");
    }
}

std::vector<float> Session::normalized_state(const std::vector<float>& state) const {
    check_count("observation.state", state.size(), spec.observation_steps * spec.state.dim());
    check_finite("observation.state", state);
    std::vector<float> normalized = normalize(spec, state);
    check_finite("the normalised observation.state", normalized);
    return normalized;
}

// The state in a prompt is that of the newest observation step.
PromptTokens Session::prompt_of(const std::string& task,
                                const std::vector<float>& normalized) const {
    if (task.size() > limits::text_characters) {
        throw ArgumentError("the task has " + std::to_string(task.size()) + " bytes, more than " +
                            std::to_string(limits::text_characters));
    }
    auto newest = normalized.end() - spec.state.padded_dim;
    std::vector<float> state(newest, newest + spec.state.dim());
    return prompt_tokens(spec.prompt, *tokenizer, task, state);
}

PromptTokens Session::padded(const std::vector<int64_t>& tokens) const {
    PromptTokens prompt{tokens, static_cast<int64_t>(tokens.size())};
    if (prompt.count < 1 || prompt.count > spec.prompt.max_length) {
        throw ArgumentError("there are " + std::to_string(prompt.count) +
                            " tokens, expected 1 to " + std::to_string(spec.prompt.max_length));
    }
    prompt.ids.resize(std::max(prompt.count, spec.prompt.min_length), spec.prompt.pad_id);
    return prompt;
}

std::vector<int64_t> Session::tokenize(const std::string& task,
                                       const std::vector<float>& state) const {
    if (!spec.has_language) {
        throw ArgumentError("this policy takes no language");
    }
    PromptTokens prompt = prompt_of(task, normalized_state(state));
    prompt.ids.resize(prompt.count);
    return prompt.ids;
}

int64_t Session::set_tokens(const Observation& observation, PolicyInput& input) const {
    if (!spec.has_language) {
        if (observation.tokens && !observation.tokens->empty()) {
            throw ArgumentError("this policy takes no tokens");
        }
        return 0;
    }
    if (!observation.tokens && !observation.task) {
        throw ArgumentError("the observation lacks the task");
    }
    PromptTokens prompt = observation.tokens ? padded(*observation.tokens)
                                             : prompt_of(*observation.task, input.state);
    input.tokens = std::move(prompt.ids);
    input.token_mask.assign(input.tokens.size(), 0);
    std::fill_n(input.token_mask.begin(), prompt.count, 1);
    return prompt.lost;
}

std::vector<float> Session::checked_noise(std::vector<float> noise,
                                          std::optional<uint64_t> seed) const {
    int64_t count = element_count(spec.sampler.noise_shape());
    if (noise.empty()) {
        noise = standard_normal(seed ? *seed : random_seed(), count);
    }
    check_count("noise", noise.size(), count);
    check_finite("noise", noise);
    return noise;
}

void Session::check_actions(const std::vector<float>& actions) const {
    for (size_t k = 0; k < actions.size(); k++) {
        if (!std::isfinite(actions[k])) {
            int64_t dim = spec.action.dim();
            throw Error("the policy gave a non-finite action: step " +
                        std::to_string(static_cast<int64_t>(k) / dim) + ", " +
                        spec.action.names[k % dim]);
        }
    }
}

std::vector<float> Session::act(const Observation& observation, std::vector<float> noise,
                                std::optional<uint64_t> seed,
                                const std::optional<PreviousChunk>& previous) {
    backend.demand_threads();
    check_images(observation);
    PolicyInput input;
    input.images = observation.images;
    input.state = normalized_state(observation.state);
    int64_t lost = set_tokens(observation, input);
    input.noise = checked_noise(std::move(noise), seed);
    if (previous) {
        input.guidance.emplace(spec, *previous);
    }

    std::lock_guard lock(mutex);
    Timings timings;
    std::vector<float> actions = unnormalize(spec.action, driver->act(input, timings));
    last_timings = timings;
    last_lost_tokens = lost;
    file.bytes().check_unchanged();
    check_actions(actions);
    return actions;
}

std::map<std::string, Array> Session::run_stage(const std::string& stage,
                                                const std::map<std::string, ArrayView>& inputs) {
    backend.demand_threads();
    std::lock_guard lock(mutex);
    std::map<std::string, Array> outputs = stages.run(stage, inputs);
    file.bytes().check_unchanged();
    return outputs;
}

Timings Session::timings() const {
    std::lock_guard lock(mutex);
    return last_timings;
}

int64_t Session::lost_tokens() const {
    std::lock_guard lock(mutex);
    return last_lost_tokens;
}

} // namespace actquant
