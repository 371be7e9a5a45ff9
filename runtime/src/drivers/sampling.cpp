#include "common/stopwatch.h"
#include "drivers/driver.h"
#include "drivers/perception.h"

#include <algorithm>

namespace actquant {
namespace {

// The prefix once, then a chunk from noise, step by step.
class Sampling : public Driver {
  public:
    Sampling(const PolicySpec& spec, Stages& stages) : spec(spec), stages(stages) {}

    std::vector<float> act(const PolicyInput& input, Timings& timings) override;

  private:
    void hand_over_prefix();
    std::vector<float> denoise(const std::vector<float>& x, int64_t step);
    std::vector<float> sample(const std::vector<float>& noise,
                              const std::optional<Guidance>& guidance);
    std::vector<float> decode(std::vector<float> x);

    Shape sample_shape() const { return {1, spec.sampler.noise_rows, spec.sampler.noise_dim}; }

    const PolicySpec& spec;
    Stages& stages;
};

// Device tensors are shared already; what the prefix computed on the host is copied.
void Sampling::hand_over_prefix() {
    Stage& step = *stages.denoise();
    for (const ValueInfo& output : stages.prefix().outputs()) {
        if (step.needs_input(output.name)) {
            Array value = stages.prefix().output(output.name);
            step.set_input(output.name, {value.dtype, value.shape, value.bytes.data()});
        }
    }
}

std::vector<float> Sampling::denoise(const std::vector<float>& x, int64_t step) {
    Stage& stage = *stages.denoise();
    if (stage.needs_input("x_t")) {
        stage.set_input("x_t", {DType::f32, sample_shape(), x.data()});
    }
    if (stage.needs_input("step")) {
        stage.set_input("step", {DType::i64, {1}, &step});
    }
    stage.run();
    return floats_of(stage, "output");
}

void advance(const SamplerStep& step, const std::vector<float>& output, const float* initial,
             const float* fresh, std::vector<float>& x) {
    for (size_t i = 0; i < x.size(); i++) {
        float x0 = step.from_x * x[i] + step.from_output * output[i];
        if (step.clip != 0) {
            x0 = std::clamp(x0, -step.clip, step.clip);
        }
        float next = step.next_from_x0 * x0 + step.next_from_x * x[i] +
                     step.next_from_output * output[i] + step.initial * initial[i];
        x[i] = step.fresh != 0 ? next + step.fresh * fresh[i] : next;
    }
}

std::vector<float> Sampling::sample(const std::vector<float>& noise,
                                    const std::optional<Guidance>& guidance) {
    size_t count = element_count(sample_shape());
    std::vector<float> x(noise.begin(), noise.begin() + count);
    const float* fresh = noise.data() + count;
    for (size_t k = 0; k < spec.sampler.steps.size(); k++) {
        const SamplerStep& step = spec.sampler.steps[k];
        std::vector<float> output = denoise(x, static_cast<int64_t>(k));
        if (guidance) {
            guidance->turn(k, x, output);
        }
        advance(step, output, noise.data(), fresh, x);
        fresh += step.fresh != 0 ? count : 0;
    }
    return x;
}

std::vector<float> Sampling::decode(std::vector<float> x) {
    Stage* stage = stages.decode();
    if (stage == nullptr) {
        return x;
    }
    if (stage->needs_input("x")) {
        stage->set_input("x", {DType::f32, sample_shape(), x.data()});
    }
    stage->run();
    return floats_of(*stage, "actions");
}

std::vector<float> Sampling::act(const PolicyInput& input, Timings& timings) {
    Stopwatch total_watch;
    perceive(spec, stages, input, timings);
    Stopwatch denoise_watch;
    hand_over_prefix();
    std::vector<float> chunk = decode(sample(input.noise, input.guidance));
    timings.denoise_ms = denoise_watch.elapsed_ms();
    timings.total_ms = total_watch.elapsed_ms();
    return chunk;
}

} // namespace

std::unique_ptr<Driver> make_sampling(const PolicySpec& spec, Stages& stages) {
    return std::make_unique<Sampling>(spec, stages);
}

} // namespace actquant
