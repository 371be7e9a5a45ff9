#pragma once

#include "file/policy_spec.h"

#include <string>
#include <vector>

namespace actquant {

// How the weight of the previous actions falls between the delay and the execution horizon.
enum class Schedule { linear, zeros, ones, exponential };

// linear, zeros, ones or exp. Throws ArgumentError for another name.
Schedule parse_schedule(const std::string& name);

// What is left of the chunk before while a chunk is made; the first of the actions falls on the
// same control step as the new chunk's first.
struct PreviousChunk {
    std::vector<float> actions; // [n, action dimension], in the robot's units
    int64_t delay = 0;          // how many of them will be executed before the new chunk is there
    int64_t execution_horizon = 10;
    double max_guidance = 10;
    Schedule schedule = Schedule::linear;
};

// Why a policy's chunk cannot be guided; empty if it can.
std::string why_not_guided(const PolicySpec& spec);

// Real-time chunking without the Jacobian, as LeRobot's RTCProcessor: every step of a flow is
// turned towards a chunk that begins as the one before goes on
// (https://huggingface.co/papers/2506.07339).
class Guidance {
  public:
    // Throws ArgumentError if the policy is no flow or the previous chunk does not fit it.
    Guidance(const PolicySpec& spec, const PreviousChunk& previous);

    // Turns the output of a step at x, both [noise rows, noise dimension].
    void turn(size_t step, const std::vector<float>& x, std::vector<float>& output) const;

  private:
    int64_t dim;                  // of the sample
    std::vector<float> target;    // [noise rows, dim], normalised; zeros where there is no action
    std::vector<float> weights;   // [noise rows]
    std::vector<float> remaining; // by step: the way to the end of the flow, in its own time
    double max_guidance;
};

} // namespace actquant
