#include "drivers/guidance.h"

#include "common/error.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace actquant {
namespace {

// x <- x + width * output and nothing else.
bool is_euler_step(const SamplerStep& step) {
    return step.from_x == 0 && step.from_output == 0 && step.clip == 0 && step.next_from_x0 == 0 &&
           step.next_from_x == 1 && step.next_from_output != 0 && step.fresh == 0 &&
           step.initial == 0;
}

bool is_flow(const std::vector<SamplerStep>& steps) {
    return std::all_of(steps.begin(), steps.end(), [&](const SamplerStep& step) {
        return is_euler_step(step) &&
               (step.next_from_output > 0) == (steps.front().next_from_output > 0);
    });
}

void check(const PolicySpec& spec, const PreviousChunk& previous) {
    std::string reason = why_not_guided(spec);
    if (!reason.empty()) {
        throw ArgumentError("the previous chunk cannot guide this policy: " + reason);
    }
    size_t dim = spec.action.names.size();
    size_t rows = previous.actions.size() / dim;
    if (previous.actions.size() % dim != 0 || rows < 1 ||
        rows > static_cast<size_t>(spec.chunk_length)) {
        throw ArgumentError("the previous chunk has " + std::to_string(previous.actions.size()) +
                            " numbers, expected 1 to " + std::to_string(spec.chunk_length) +
                            " actions of " + std::to_string(dim));
    }
    for (size_t k = 0; k < previous.actions.size(); k++) {
        if (!std::isfinite(previous.actions[k])) {
            throw ArgumentError("the previous chunk is " + std::to_string(previous.actions[k]) +
                                " in step " + std::to_string(k / dim) + ", " +
                                spec.action.names[k % dim]);
        }
    }
    if (previous.delay < 0) {
        throw ArgumentError("the delay is " + std::to_string(previous.delay) +
                            ", expected at least 0");
    }
    if (previous.execution_horizon < 1) {
        throw ArgumentError("the execution horizon is " +
                            std::to_string(previous.execution_horizon) + ", expected at least 1");
    }
    if (!(previous.max_guidance > 0) || !std::isfinite(previous.max_guidance)) {
        throw ArgumentError("the greatest guidance is " + std::to_string(previous.max_guidance) +
                            ", expected a number above 0");
    }
}

// Without eps, so that actions come back as they left the policy.
std::vector<float> normalized(const PolicySpec& spec, const std::vector<float>& actions) {
    const VectorSpec& layout = spec.action;
    std::vector<float> rows(spec.sampler.noise_rows * spec.sampler.noise_dim, 0.0f);
    for (size_t k = 0; k < actions.size(); k++) {
        int64_t row = static_cast<int64_t>(k) / layout.dim();
        int64_t column = static_cast<int64_t>(k) % layout.dim();
        double scale = layout.standard_deviation[column];
        if (scale != 0) { // else the action does not depend on the sample
            rows[row * spec.sampler.noise_dim + column] =
                static_cast<float>((static_cast<double>(actions[k]) - layout.mean[column]) / scale);
        }
    }
    return rows;
}

// Of a row between the delay and the horizon, `place` in (0, 1) of the way.
double weight_between(Schedule schedule, double place) {
    double linear = 1 - place;
    switch (schedule) {
    case Schedule::linear:
        return linear;
    case Schedule::exponential:
        return linear * std::expm1(linear) / (std::numbers::e - 1);
    case Schedule::zeros:
        return 0;
    case Schedule::ones:
        return 1;
    }
    return 0;
}

std::vector<float> row_weights(const PreviousChunk& previous, int64_t given, int64_t rows) {
    int64_t end = std::min(previous.execution_horizon, given);
    int64_t start = std::min(previous.delay, end);
    std::vector<float> weights(rows, 0.0f);
    std::fill_n(weights.begin(), start, 1.0f);
    for (int64_t row = start; row < end; row++) {
        double place = static_cast<double>(row - start + 1) / static_cast<double>(end - start + 1);
        weights[row] = static_cast<float>(weight_between(previous.schedule, place));
    }
    return weights;
}

std::vector<float> remaining_ways(const std::vector<SamplerStep>& steps) {
    std::vector<float> ways(steps.size());
    double sum = 0;
    for (size_t k = steps.size(); k-- > 0;) {
        sum += steps[k].next_from_output;
        ways[k] = static_cast<float>(sum);
    }
    return ways;
}

} // namespace

Schedule parse_schedule(const std::string& name) {
    const std::pair<const char*, Schedule> schedules[] = {{"linear", Schedule::linear},
                                                          {"zeros", Schedule::zeros},
                                                          {"ones", Schedule::ones},
                                                          {"exp", Schedule::exponential}};
    for (auto [known, schedule] : schedules) {
        if (name == known) {
            return schedule;
        }
    }
    throw ArgumentError("there is no schedule '" + name +
                        "'; choose one of linear, zeros, ones, exp");
}

std::string why_not_guided(const PolicySpec& spec) {
    if (spec.sampler.steps.empty()) {
        return "it gives its chunk at once, without sampling";
    }
    if (!is_flow(spec.sampler.steps)) {
        return "its sampler takes no Euler steps of a flow";
    }
    bool is_chunk = spec.sampler.noise_rows == spec.chunk_length &&
                    spec.sampler.noise_dim == spec.action.padded_dim;
    if (spec.programs.contains("decode") || !is_chunk) {
        return "what it samples is not the chunk itself";
    }
    return "";
}

Guidance::Guidance(const PolicySpec& spec, const PreviousChunk& previous)
    : dim(spec.sampler.noise_dim), max_guidance(previous.max_guidance) {
    check(spec, previous);
    int64_t given = static_cast<int64_t>(previous.actions.size()) / spec.action.dim();
    target = normalized(spec, previous.actions);
    weights = row_weights(previous, given, spec.sampler.noise_rows);
    remaining = remaining_ways(spec.sampler.steps);
}

// With t = 1 at the noise and 0 at the chunk: v <- v - strength * weight * (target - (x - t * v)),
// strength = t / (1 - t) * (t^2 + (1 - t)^2) / t^2, at most max_guidance. The output is -v for a
// flow whose own time runs upwards.
void Guidance::turn(size_t step, const std::vector<float>& x, std::vector<float>& output) const {
    double whole = remaining.front();
    double t = remaining[step] / whole;
    double strength = t < 1 ? (t * t + (1 - t) * (1 - t)) / (t * (1 - t)) : max_guidance;
    float gain = static_cast<float>(std::min(strength, max_guidance) / whole);
    for (size_t k = 0; k < output.size(); k++) {
        float end = x[k] + remaining[step] * output[k];
        output[k] += gain * weights[k / dim] * (target[k] - end);
    }
}

} // namespace actquant
