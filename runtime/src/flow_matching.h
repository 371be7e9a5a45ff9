#pragma once

#include "loop_invariants.h"
#include "policy_spec.h"

#include <map>
#include <string>
#include <vector>

namespace actquant {

struct Observation {
    std::vector<ImageView> images; // per camera of the policy, in its order
    std::vector<float> state;
    std::vector<int64_t> tokens;
    std::vector<uint8_t> token_mask;
};

struct Timings {
    double vision_ms = 0;
    double prefix_ms = 0;
    double denoise_ms = 0;
    double total_ms = 0;
};

// The driver: vision per present camera, the prefix once, then Euler steps from noise to actions.
// Works in the policy's own (normalised, padded) numbers.
class FlowMatching {
  public:
    FlowMatching(const PolicySpec& spec, const ModelFile& file, Device& device);

    // `state` [S padded] and `noise` [H, A padded] in, actions [H, A padded] out.
    std::vector<float> act(const Observation& observation, const std::vector<float>& state,
                           std::vector<float> noise, Timings& timings);

    std::vector<std::string> stage_names() const { return {"vision", "prefix", "denoise"}; }
    const std::vector<ValueInfo>& stage_inputs(const std::string& stage) const;
    const std::vector<ValueInfo>& stage_outputs(const std::string& stage) const;
    // Runs one stage alone; every input must be given.
    std::map<std::string, Array> run_stage(const std::string& stage,
                                           const std::map<std::string, ArrayView>& inputs);

  private:
    void check_stages() const;
    std::map<std::string, ggml_tensor*> prefix_tensors() const;
    Array embed_image(const ImageView& image, const std::string& camera);
    void run_prefix(const Observation& observation, const std::vector<float>& state,
                    Timings& timings);
    void hand_over_prefix();
    void set_if_used(Stage& stage, const std::string& name, const ArrayView& value);

    const PolicySpec& spec;
    Stage vision;
    Stage prefix;
    LoopStage denoise;
};

} // namespace actquant
