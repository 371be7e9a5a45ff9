#pragma once

#include "drivers/driver.h"
#include "tokenizer/tokenizer.h"

#include <mutex>
#include <optional>

namespace actquant {

// What the robot gives for one chunk.
struct Observation {
    // Observation steps × cameras of the policy, oldest step first. An image without pixels is an
    // absent camera, which is then absent in every step.
    std::vector<ImageView> images;
    std::vector<float> state;        // [observation steps, state dimension], in the robot's units
    std::optional<std::string> task; // UTF-8
    // The prompt without padding, instead of the one made of task and state.
    std::optional<std::vector<int64_t>> tokens;
};

// A policy loaded and ready to act. Every method may be called from any thread; calls on one
// session run one after the other.
class Session {
  public:
    // device: as find_device takes it.
    Session(const std::string& path, int threads, const std::string& device = "cpu");

    const PolicySpec& policy() const { return spec; }
    const ModelFile& model_file() const { return file; }
    int threads() const { return backend.threads(); }
    bool on_device() const { return backend.device() != nullptr; }

    // Actions [chunk_length, action dimension] in the robot's units. `noise` has the shape of
    // SamplerSpec::noise_shape, or is empty to draw it from `seed` (or at random without one).
    // Throws ArgumentError if `previous` is given to a policy that it cannot guide.
    std::vector<float> act(const Observation& observation, std::vector<float> noise,
                           std::optional<uint64_t> seed,
                           const std::optional<PreviousChunk>& previous = std::nullopt);
    // The prompt without padding. Throws ArgumentError for a policy without language.
    std::vector<int64_t> tokenize(const std::string& task, const std::vector<float>& state) const;
    std::map<std::string, Array> run_stage(const std::string& stage,
                                           const std::map<std::string, ArrayView>& inputs);
    // Acts `runs` times, operator by operator: JSON of what each costs in one action, and what the
    // machine can reach.
    std::string profile(const Observation& observation, int runs);
    Timings timings() const;
    // How many tokens the last action's prompt lost at its end, for which the policy has no room.
    int64_t lost_tokens() const;
    // Metadata, stages, memory and tensors as JSON. The tokenizer is left out: see PolicySpec.
    std::string describe() const;

  private:
    void check_images(const Observation& observation) const;
    std::vector<float> normalized_state(const std::vector<float>& state) const;
    PromptTokens prompt_of(const std::string& task, const std::vector<float>& normalized) const;
    PromptTokens padded(const std::vector<int64_t>& tokens) const;
    // Returns how many tokens there was no room for.
    int64_t set_tokens(const Observation& observation, PolicyInput& input) const;
    std::vector<float> checked_noise(std::vector<float> noise, std::optional<uint64_t> seed) const;
    void check_actions(const std::vector<float>& actions) const;

    ModelFile file;
    PolicySpec spec;
    Backend backend;
    Weights weights;
    Stages stages;
    std::unique_ptr<Driver> driver;
    std::unique_ptr<const Tokenizer> tokenizer; // null for a policy without language
    mutable std::recursive_mutex mutex;
    Timings last_timings;
    int64_t last_lost_tokens = 0;
};

} // namespace actquant
