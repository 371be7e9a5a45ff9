// actquant-run: one observation from files and options to one chunk of actions.
#include "arguments.h"
#include "npy_file.h"
#include "policy.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <iostream>

using namespace actquant::tools;

namespace {

constexpr const char* usage = R"(actquant-run MODEL [options]: the actions for one observation.

  --image CAMERA=FILE  PNG or JPEG of a camera; CAMERA may be the last part of its name.
                       A policy of several observation steps takes one per step, oldest first.
  --text TASK          what to do
  --state A,B,...      in the robot's units; one per observation step, oldest first
  --seed N             draws the noise from a seed; without it, it is random
  --noise FILE         takes the noise from a .npy file of float32
  --threads N          0 (default): as many as the model has work for
  --device NAME        cpu (default), vulkan, cuda, auto: the first GPU, else the processor
  --golden             runs the file's self-test instead; fails if it does not hold
  --json               prints JSON
)";

std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) {
        text += (text.empty() ? "" : ", ") + word;
    }
    return text;
}

size_t camera_index(const std::vector<std::string>& cameras, const std::string& name) {
    std::vector<size_t> found;
    for (size_t k = 0; k < cameras.size(); k++) {
        if (cameras[k] == name) {
            return k;
        }
        if (cameras[k].ends_with("." + name)) {
            found.push_back(k);
        }
    }
    if (found.size() != 1) {
        throw UsageError("there is no camera '" + name + "'; there are " + joined(cameras));
    }
    return found[0];
}

void read_images(const Arguments& arguments, const Policy& policy, Observation& observation) {
    std::vector<std::string> cameras = policy.cameras();
    size_t steps = policy.observation_steps();
    std::vector<std::vector<Image>> images(cameras.size());
    for (const std::string& argument : arguments.all("image")) {
        size_t equals = argument.find('=');
        if (equals == argument.npos) {
            throw UsageError("--image " + argument + " is no CAMERA=FILE; there are the cameras " +
                             joined(cameras));
        }
        images[camera_index(cameras, argument.substr(0, equals))].push_back(
            read_image(argument.substr(equals + 1)));
    }
    for (size_t k = 0; k < cameras.size(); k++) {
        if (!images[k].empty() && images[k].size() != steps) {
            throw UsageError("there are " + std::to_string(images[k].size()) + " images of " +
                             cameras[k] + "; the policy takes " + std::to_string(steps));
        }
    }
    for (size_t step = 0; step < steps; step++) {
        for (std::vector<Image>& of_camera : images) {
            observation.images.push_back(
                of_camera.empty() ? std::nullopt : std::optional(std::move(of_camera[step])));
        }
    }
}

void read_state(const Arguments& arguments, const Policy& policy, Observation& observation) {
    std::vector<std::string> names = policy.description()["state"]["names"];
    std::vector<std::string> given = arguments.all("state");
    size_t wanted = names.empty() ? 0 : policy.observation_steps();
    if (given.size() != wanted) {
        throw UsageError("--state is given " + std::to_string(given.size()) +
                         " times; the policy takes it " + std::to_string(wanted) +
                         " times: " + joined(names));
    }
    for (const std::string& text : given) {
        std::vector<float> values = parse_numbers("state", text);
        if (values.size() != names.size()) {
            throw UsageError("--state has " + std::to_string(values.size()) +
                             " numbers; expected " + std::to_string(names.size()) + ": " +
                             joined(names));
        }
        observation.state.insert(observation.state.end(), values.begin(), values.end());
    }
}

Observation read_observation(const Arguments& arguments, const Policy& policy) {
    Observation observation;
    read_images(arguments, policy, observation);
    read_state(arguments, policy, observation);
    if (policy.has_language() != arguments.has("text")) {
        throw UsageError(policy.has_language() ? "--text is missing: the policy takes a task"
                                               : "--text is given, but the policy takes no task");
    }
    observation.task = arguments.one("text", "");
    return observation;
}

Noise read_noise(const Arguments& arguments, const Policy& policy) {
    Noise noise;
    if (arguments.has("seed") && arguments.has("noise")) {
        throw UsageError("--seed and --noise exclude each other");
    }
    if (arguments.has("seed")) {
        std::string text = arguments.one("seed", "");
        uint64_t seed = 0;
        auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
        if (error != std::errc() || end != text.data() + text.size()) {
            throw UsageError("--seed " + text + " is no whole number");
        }
        noise.seed = seed;
    }
    if (arguments.has("noise")) {
        NpyArray array = read_npy(arguments.one("noise", ""));
        Json shape = array.shape;
        if (shape != policy.description()["noise_shape"]) {
            throw UsageError("--noise is " + shape.dump() + "; the policy takes " +
                             policy.description()["noise_shape"].dump());
        }
        noise.values = std::move(array.values);
    }
    return noise;
}

Json timings_json(const aq_timings& timings) {
    return {{"vision", timings.vision_ms},
            {"prefix", timings.prefix_ms},
            {"denoise", timings.denoise_ms},
            {"total", timings.total_ms}};
}

void print_actions(const Json& description, const Actions& actions) {
    std::vector<std::string> names = description["action"]["names"];
    std::printf("%4s", "step");
    for (const std::string& name : names) {
        std::printf("  %12s", name.c_str());
    }
    std::printf("\n");
    for (size_t row = 0; row < actions.size(); row++) {
        std::printf("%4zu", row);
        for (size_t k = 0; k < names.size(); k++) {
            std::printf("  %*.6g", std::max<int>(12, static_cast<int>(names[k].size())),
                        static_cast<double>(actions[row][k]));
        }
        std::printf("\n");
    }
}

int act(const Arguments& arguments, Policy& policy) {
    Observation observation = read_observation(arguments, policy);
    Actions actions = policy.act(observation, read_noise(arguments, policy));
    const Json& description = policy.description();
    if (int64_t lost = policy.lost_tokens(); lost > 0) {
        std::cerr << "actquant-run: the policy has no room for the last " << lost
                  << " tokens of the prompt\n";
    }
    if (arguments.has("json")) {
        Json result = {{"actions", actions},
                       {"action_names", description["action"]["names"]},
                       {"steps_per_chunk", description["action"]["steps_per_chunk"]},
                       {"control_rate_hz", description["control_rate_hz"]},
                       {"timings_ms", timings_json(policy.timings())}};
        std::cout << result.dump() << "\n";
        return 0;
    }
    print_actions(description, actions);
    std::printf("%zu actions at %g Hz, of which to execute %d; made in %.1f ms\n", actions.size(),
                description["control_rate_hz"].get<double>(),
                description["action"]["steps_per_chunk"].get<int>(), policy.timings().total_ms);
    return 0;
}

int self_test(const Arguments& arguments, Policy& policy) {
    aq_self_test_result found = policy.self_test();
    if (arguments.has("json")) {
        Json result = {{"passed", found.passed != 0},
                       {"inputs", found.inputs},
                       {"mean", found.mean},
                       {"worst", found.worst},
                       {"limit", found.limit},
                       {"reference_mean", found.reference_mean},
                       {"reference_worst", found.reference_worst}};
        std::cout << result.dump() << "\n";
        return found.passed ? 0 : 1;
    }
    std::printf("%zu golden inputs; distances in standard deviations of the actions\n",
                found.inputs);
    std::printf("from this file's own answers  mean %.2e  worst %.2e  limit %.0e  %s\n", found.mean,
                found.worst, found.limit, found.passed ? "passed" : "FAILED");
    std::printf("from PyTorch in float32       mean %.2e  worst %.2e  measured\n",
                found.reference_mean, found.reference_worst);
    return found.passed ? 0 : 1;
}

} // namespace

int main(int argc, char** argv) {
    return run_main(argc, argv, "actquant-run", usage, [&] {
        Arguments arguments(argc, argv,
                            {"image", "text", "state", "seed", "noise", "threads", "device"},
                            {"golden", "json"});
        Policy policy(arguments.model(), arguments.whole_number("threads", 0, 0),
                      arguments.one("device", "cpu"));
        return arguments.has("golden") ? self_test(arguments, policy) : act(arguments, policy);
    });
}
