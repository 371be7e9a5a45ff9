// actquant-bench: how long a policy takes to load and to act, and how much memory.
#include "arguments.h"
#include "golden.h"
#include "policy.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>

using namespace actquant::tools;

namespace {

constexpr const char* usage = R"(actquant-bench MODEL [options]: latency and memory.

  --runs N     how often to act, 20 by default, on the golden inputs in turn
  --warmup N   how often to act before, 2 by default
  --threads N  0 (default): as many as the model has work for
  --device NAME  cpu (default), vulkan, cuda, auto: the first GPU, else the processor
  --operators  also where the time goes, operator by operator (3 actions)
  --json       prints JSON
)";

// Percentile by linear interpolation, as numpy.percentile.
double percentile(std::vector<double> values, double percent) {
    std::sort(values.begin(), values.end());
    double place = percent / 100 * static_cast<double>(values.size() - 1);
    size_t low = static_cast<size_t>(place);
    size_t high = std::min(low + 1, values.size() - 1);
    return values[low] + (values[high] - values[low]) * (place - std::floor(place));
}

// The most memory this process has held so far, or null where the system does not tell.
Json peak_memory_mib() {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
        if (word == "VmHWM:") {
            double kib = 0;
            status >> kib;
            return kib / 1024;
        }
    }
    return nullptr;
}

Json percentiles(const std::vector<double>& values) {
    return {{"p50", percentile(values, 50)},
            {"p90", percentile(values, 90)},
            {"p99", percentile(values, 99)},
            {"max", percentile(values, 100)}};
}

std::vector<GoldenInputs> inputs_of(Policy& policy) {
    std::vector<GoldenInputs> inputs;
    for (const Json& golden_case : policy.description()["golden"]) {
        inputs.push_back(golden_inputs(policy, golden_case));
    }
    if (inputs.empty()) {
        inputs.push_back(golden_inputs(policy, {{"seed", 0}}));
    }
    return inputs;
}

Json measure(Policy& policy, int warmup, int runs) {
    std::vector<GoldenInputs> inputs = inputs_of(policy);
    std::vector<double> vision, prefix, denoise, total;
    for (int k = 0; k < warmup + runs; k++) {
        const GoldenInputs& input = inputs[k % inputs.size()];
        policy.act(input.observation, input.noise);
        if (k >= warmup) {
            aq_timings timings = policy.timings();
            vision.push_back(timings.vision_ms);
            prefix.push_back(timings.prefix_ms);
            denoise.push_back(timings.denoise_ms);
            total.push_back(timings.total_ms);
        }
    }
    return {{"vision", percentiles(vision)},
            {"prefix", percentiles(prefix)},
            {"denoise", percentiles(denoise)},
            {"total", percentiles(total)}};
}

void print(const Json& result) {
    std::printf("%s: %s, %d threads, kernels %s, %d runs\n",
                result["name"].get<std::string>().c_str(),
                result["device"].get<std::string>().c_str(), result["threads"].get<int>(),
                result["kernels"].get<std::string>().c_str(), result["runs"].get<int>());
    std::printf("load        %9.1f ms\n", result["load_ms"].get<double>());
    for (const char* stage : {"vision", "prefix", "denoise", "total"}) {
        const Json& latency = result["latency_ms"][stage];
        std::printf("%-10s", stage);
        for (const char* key : {"p50", "p90", "p99", "max"}) {
            std::printf("  %s %9.2f", key, latency[key].get<double>());
        }
        std::printf(" ms\n");
    }
    if (!result["peak_memory_mib"].is_null()) {
        std::printf("peak memory %9.1f MiB\n", result["peak_memory_mib"].get<double>());
    }
}

void print_profile(const Json& profile) {
    for (const auto& [kind, rate] : profile["reach_per_s"].items()) {
        std::printf("reach       %9.1f G%s/s %s\n", rate.get<double>() / 1e9,
                    kind == "memory" ? "B" : "op", kind.c_str());
    }
    std::printf("%-8s %-12s %-9s %6s %9s %9s %9s %9s\n", "stage", "operator", "kernel", "calls",
                "ms", "at least", "of reach", "Gop/s");
    auto print = [](const Json& cost, const char* op, const char* kernel, int calls) {
        double ms = cost["ms"];
        double least = cost["least_ms"];
        std::printf("%-8s %-12s %-9s %6d %9.3f %9.3f %8.0f%%",
                    cost["stage"].get<std::string>().c_str(), op, kernel, calls, ms, least,
                    100 * least / ms);
        if (cost.contains("operations")) {
            std::printf(" %9.1f", cost["operations"].get<double>() / ms / 1e6);
        }
        std::printf("\n");
    };
    for (const Json& stage : profile["stages"]) {
        print(stage, "all", "", 1);
    }
    std::vector<Json> costs = profile["operators"];
    std::sort(costs.begin(), costs.end(),
              [](const Json& a, const Json& b) { return a["ms"] > b["ms"]; });
    for (const Json& cost : costs) {
        print(cost, cost["op"].get<std::string>().c_str(),
              cost["kernel"].get<std::string>().c_str(), cost["calls"]);
    }
}

} // namespace

int main(int argc, char** argv) {
    return run_main(argc, argv, "actquant-bench", usage, [&] {
        Arguments arguments(argc, argv, {"runs", "warmup", "threads", "device"},
                            {"json", "operators"});
        int runs = arguments.whole_number("runs", 20, 1);
        int warmup = arguments.whole_number("warmup", 2, 0);
        auto start = std::chrono::steady_clock::now();
        Policy policy(arguments.model(), arguments.whole_number("threads", 0, 0),
                      arguments.one("device", "cpu"));
        std::chrono::duration<double, std::milli> load = std::chrono::steady_clock::now() - start;
        Json result = {{"name", policy.description()["name"]},
                       {"threads", policy.description()["threads"]},
                       {"kernels", policy.description()["kernels"]},
                       {"device", policy.description()["device"]},
                       {"runs", runs},
                       {"load_ms", load.count()},
                       {"latency_ms", measure(policy, warmup, runs)}};
        result["peak_memory_mib"] = peak_memory_mib();
        if (arguments.has("operators")) {
            constexpr int actions = 3;
            result["profile"] = policy.profile(inputs_of(policy).front().observation, actions);
        }
        if (arguments.has("json")) {
            std::cout << result.dump() << "\n";
        } else {
            print(result);
            if (arguments.has("operators")) {
                print_profile(result["profile"]);
            }
        }
        return 0;
    });
}
