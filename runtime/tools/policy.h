#pragma once

#include "image_file.h"

#include <actquant.h>
#include <nlohmann/json.hpp>

#include <memory>
#include <optional>

namespace actquant::tools {

using Json = nlohmann::json;

// Observation steps × cameras; an absent camera has no image.
struct Observation {
    std::vector<std::optional<Image>> images;
    std::vector<float> state; // of all steps
    std::string task;
};

// What the policy samples from: the values, or a seed, or neither.
struct Noise {
    std::vector<float> values;
    std::optional<uint64_t> seed;
};

// [chunk length][action dimension], in the robot's units.
using Actions = std::vector<std::vector<float>>;

// A policy file behind the C interface. Failures are thrown as std::runtime_error.
class Policy {
  public:
    // device: as aq_open_on takes it. Says on stderr which operators it leaves to the processor.
    Policy(const std::string& path, int threads, const std::string& device);

    // For what is not below.
    aq_session* handle() const { return session.get(); }
    // What aq_describe says, its JSON texts parsed.
    const Json& description() const { return parsed; }
    std::vector<std::string> cameras() const { return parsed["cameras"]; }
    size_t observation_steps() const { return parsed["observation_steps"]; }
    size_t state_dim() const { return parsed["state"]["names"].size(); }
    bool has_language() const { return !parsed["prompt"].is_null(); }

    Actions act(const Observation& observation, const Noise& noise);
    void fill_golden(uint64_t seed, std::vector<uint8_t>& pixels, std::vector<float>& state,
                     std::vector<float>& noise) const;
    aq_self_test_result self_test();
    // See aq_profile.
    Json profile(const Observation& observation, int runs);
    aq_timings timings() const { return aq_last_timings(session.get()); }
    int64_t lost_tokens() const { return aq_lost_tokens(session.get()); }

  private:
    struct Closer {
        void operator()(aq_session* session) const { aq_close(session); }
    };

    aq_observation input_of(const Observation& observation, std::vector<aq_image>& images) const;

    std::unique_ptr<aq_session, Closer> session;
    Json parsed;
};

} // namespace actquant::tools
