#include "common/stopwatch.h"
#include "drivers/perception.h"

namespace actquant {
namespace {

// The prefix gives the chunk.
class OneShot : public Driver {
  public:
    OneShot(const PolicySpec& spec, Stages& stages) : spec(spec), stages(stages) {}

    std::vector<float> act(const PolicyInput& input, Timings& timings) override {
        Stopwatch watch;
        perceive(spec, stages, input, timings);
        std::vector<float> chunk = floats_of(stages.prefix(), "actions");
        timings.total_ms = watch.elapsed_ms();
        return chunk;
    }

  private:
    const PolicySpec& spec;
    Stages& stages;
};

} // namespace

std::unique_ptr<Driver> make_one_shot(const PolicySpec& spec, Stages& stages) {
    return std::make_unique<OneShot>(spec, stages);
}

} // namespace actquant
