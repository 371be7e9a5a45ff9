#include "api/session.h"
#include "backend/reach.h"
#include "common/error.h"
#include "common/json.h"

#include <algorithm>

namespace actquant {
namespace {

// Notes what is computed as long as it lives.
struct Profiling {
    explicit Profiling(Backend& backend) : backend(backend) { backend.set_profile(&profile); }
    ~Profiling() { backend.set_profile(nullptr); }

    Backend& backend;
    Profile profile;
};

using Reach = std::map<std::string, double>;

// What an operator takes at least: all operations at the rate that its kind of product reaches, or
// its weights from memory. What lies between operators is taken to stay in the caches.
double least_seconds(const OperatorCost& cost, const std::string& kernel, const Reach& reach) {
    auto kind = reach.find(kernel);
    double rate = kind == reach.end() ? reach.at("f32") : kind->second;
    return std::max(cost.operations / rate, cost.weight_bytes / reach.at("memory"));
}

void write_times(JsonWriter& json, double seconds, double least, int runs) {
    json.member("ms", 1e3 * seconds / runs);
    json.member("least_ms", 1e3 * least / runs);
}

void write_operators(JsonWriter& json, const Profile& profile, int runs, const Reach& reach) {
    json.begin_array();
    for (const auto& [key, cost] : profile.costs()) {
        const auto& [stage, op, kernel] = key;
        json.begin_object();
        json.member("stage", stage);
        json.member("op", op);
        json.member("kernel", kernel);
        json.member("calls", cost.calls / runs);
        write_times(json, cost.seconds, least_seconds(cost, kernel, reach), runs);
        json.member("operations", cost.operations / runs);
        json.member("weight_bytes", cost.weight_bytes / runs);
        json.end_object();
    }
    json.end_array();
}

void write_stages(JsonWriter& json, const Profile& profile, int runs, const Reach& reach) {
    std::map<std::string, std::pair<double, double>> stages;
    for (const auto& [key, cost] : profile.costs()) {
        auto& [seconds, least] = stages[std::get<0>(key)];
        seconds += cost.seconds;
        least += least_seconds(cost, std::get<2>(key), reach);
    }
    json.begin_array();
    for (const auto& [stage, times] : stages) {
        json.begin_object();
        json.member("stage", stage);
        write_times(json, times.first, times.second, runs);
        json.end_object();
    }
    json.end_array();
}

std::string profile_json(const Profile& profile, int runs, const Reach& reach) {
    JsonWriter json;
    json.begin_object();
    json.member("runs", runs);
    json.key("reach_per_s");
    json.begin_object();
    for (const auto& [kind, rate] : reach) {
        json.member(kind, rate);
    }
    json.end_object();
    json.key("stages");
    write_stages(json, profile, runs, reach);
    json.key("operators");
    write_operators(json, profile, runs, reach);
    json.end_object();
    return json.text();
}

} // namespace

std::string Session::profile(const Observation& observation, int runs) {
    if (runs < 1) {
        throw ArgumentError("runs must be at least 1, not " + std::to_string(runs));
    }
    if (backend.device() != nullptr) {
        throw ArgumentError("operators are profiled on the cpu alone, not on " +
                            backend.where().name);
    }
    backend.demand_threads();
    constexpr uint64_t seed = 0;
    std::lock_guard lock(mutex);
    act(observation, {}, seed); // what is unpacked once is unpacked
    std::map<std::string, double> reach = measure_reach(backend.isa(), backend.threads());
    Profiling profiling(backend);
    for (int k = 0; k < runs; k++) {
        act(observation, {}, seed);
    }
    return profile_json(profiling.profile, runs, reach);
}

} // namespace actquant
