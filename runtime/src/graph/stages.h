#pragma once

#include "file/policy_spec.h"
#include "graph/stage.h"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace actquant {

// A stage's input or output, for any prompt length.
struct StageValue {
    std::string name;
    DType dtype;
    std::vector<Size> sizes;
};

// How much memory the actions need, at the longest prompt. All but the tables is resident after the
// first action.
struct MemoryUse {
    size_t header_bytes = 0;  // keys and programs
    size_t weights_bytes = 0; // tensors of the file that are read whole
    size_t tables_bytes = 0;  // tensors of which single rows are looked up
    size_t compute_bytes = 0; // graphs, host values, ggml's work buffer
    size_t device_bytes = 0;  // of the device: weights and graphs; not in the others
};

// The stages of a policy. Those that depend on the prompt are built for one prompt length at a
// time, and built again when another is asked for.
class Stages {
  public:
    // Checks the programs at the shortest and the longest prompt. Throws FileError.
    Stages(const PolicySpec& spec, const Weights& weights, Backend& backend, size_t header_bytes);

    void prepare(int64_t prompt_length);

    Stage* vision() { return vision_stage.get(); } // null without cameras
    Stage& prefix() { return *prefix_stage; }
    Stage* denoise() { return denoise_stage.get(); } // null without a sampler
    Stage* decode() { return decode_stage.get(); }   // null where the sample is the chunk
    const ValueInfo* embedding() const;              // vision's output, null without cameras

    std::vector<StageValue> inputs(const std::string& stage) const;
    std::vector<StageValue> outputs(const std::string& stage) const;
    // Runs one stage alone, at the prompt length that its inputs' shapes tell; every input must be
    // given.
    std::map<std::string, Array> run(const std::string& stage,
                                     const std::map<std::string, ArrayView>& inputs);
    const MemoryUse& memory() const { return memory_use; }
    // See Stage.
    const std::set<std::string>& operators_on_cpu() const { return left_to_cpu; }

  private:
    const ProgramTemplate& program(const std::string& stage) const;
    void build(int64_t prompt_length);
    void release();
    void check(int64_t prompt_length);
    std::vector<const Stage*> built_stages() const;
    void measure_memory();
    std::map<std::string, ggml_tensor*> prefix_tensors(const Program& denoise) const;
    int64_t prompt_length_of(const std::string& stage,
                             const std::map<std::string, ArrayView>& inputs) const;

    const PolicySpec& spec;
    const Weights& weights;
    Backend& backend;
    std::unique_ptr<Stage> vision_stage;
    std::unique_ptr<Stage> prefix_stage;
    std::unique_ptr<Stage> denoise_stage; // reads the memory of prefix_stage
    std::unique_ptr<Stage> decode_stage;
    std::optional<int64_t> built_length;
    MemoryUse memory_use;
    std::set<std::string> left_to_cpu;
};

} // namespace actquant
