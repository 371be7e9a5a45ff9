#pragma once

#include "stage.h"

#include <memory>

namespace actquant {

struct SplitProgram {
    Program once; // what depends on no loop input
    Program body; // the rest; reads `once`'s outputs as inputs of the same name
};

// Splits a loop's program so that what is the same in every step is computed once.
SplitProgram split_loop(const Program& program, const std::set<std::string>& loop_inputs);

// A stage that runs many times while only its loop inputs change.
class LoopStage {
  public:
    LoopStage(const Program& program, const std::set<std::string>& loop_inputs,
              const ModelFile& file, Device& device,
              const std::map<std::string, ggml_tensor*>& shared);

    const std::vector<ValueInfo>& inputs() const { return input_infos; }
    const Stage& step() const { return *body; }
    // What is computed once; null when everything changes from step to step.
    const Stage* before_steps() const { return once.get(); }
    bool needs_input(const std::string& name) const;
    void set_input(const std::string& name, const ArrayView& value);
    // To be called after other inputs than the loop's were set.
    void run_once();
    void run_step() { body->run(); }
    void run() {
        run_once();
        run_step();
    }

  private:
    std::vector<ValueInfo> input_infos;
    std::unique_ptr<Stage> once;
    std::unique_ptr<Stage> body;
};

} // namespace actquant
