#pragma once

#include "flow_matching.h"

#include <mutex>
#include <optional>

namespace actquant {

// A policy loaded and ready to act. Every method may be called from any thread; calls on one
// session run one after the other.
class Session {
  public:
    Session(const std::string& path, int threads);

    const PolicySpec& policy() const { return spec; }
    const ModelFile& model_file() const { return file; }
    int threads() const { return device.threads(); }

    // Actions [chunk_length, action dimension] in the robot's units. `noise`: [chunk_length,
    // padded action dimension], or empty to draw it from `seed` (or at random without one).
    std::vector<float> act(const Observation& observation, std::vector<float> noise,
                           std::optional<uint64_t> seed);
    std::map<std::string, Array> run_stage(const std::string& stage,
                                           const std::map<std::string, ArrayView>& inputs);
    Timings timings() const;
    // Metadata, stages and tensors as JSON. The tokenizer is left out: see PolicySpec.
    std::string describe() const;
    const FlowMatching& flow_matching() const { return driver; }

  private:
    void check(const Observation& observation) const;

    ModelFile file;
    PolicySpec spec;
    Device device;
    FlowMatching driver;
    mutable std::mutex mutex;
    Timings last_timings;
};

} // namespace actquant
