#pragma once

#include "drivers/guidance.h"
#include "graph/stages.h"

#include <memory>
#include <optional>
#include <vector>

namespace actquant {

// What a policy is given for one chunk, in its own numbers.
struct PolicyInput {
    std::vector<ImageView> images;   // observation steps × cameras, oldest step first
    std::vector<float> state;        // [observation steps, padded dimension], normalised
    std::vector<int64_t> tokens;     // [L]
    std::vector<uint8_t> token_mask; // [L], 0 for padding
    std::vector<float> noise;        // of SamplerSpec::noise_shape
    std::optional<Guidance> guidance;
};

struct Timings {
    double vision_ms = 0;
    double prefix_ms = 0;
    double denoise_ms = 0; // decode included
    double total_ms = 0;
};

// How a chunk comes from an input: which stages run, how often, and what is computed between them.
class Driver {
  public:
    virtual ~Driver() = default;
    // The chunk [chunk length, padded action dimension], normalised.
    virtual std::vector<float> act(const PolicyInput& input, Timings& timings) = 0;
};

// The driver that the file names.
std::unique_ptr<Driver> make_driver(const PolicySpec& spec, Stages& stages);

std::unique_ptr<Driver> make_one_shot(const PolicySpec& spec, Stages& stages);
std::unique_ptr<Driver> make_sampling(const PolicySpec& spec, Stages& stages);

} // namespace actquant
