#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

namespace actquant {

// splitmix64 (Steele, Lea & Flood 2014), so that a seed gives the same numbers everywhere.
class SplitMix64 {
  public:
    explicit SplitMix64(uint64_t seed) : state(seed) {}

    uint64_t next() {
        state += 0x9e3779b97f4a7c15u;
        uint64_t z = state;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }

    // In (0, 1].
    double uniform() { return (static_cast<double>(next() >> 11) + 1.0) * 0x1p-53; }

  private:
    uint64_t state;
};

// Independent N(0, 1) numbers (Box & Muller 1958).
inline std::vector<float> standard_normal(uint64_t seed, size_t count) {
    SplitMix64 generator(seed);
    std::vector<float> values;
    while (values.size() < count) {
        double radius = std::sqrt(-2.0 * std::log(generator.uniform()));
        double angle = 2.0 * std::numbers::pi * generator.uniform();
        values.push_back(static_cast<float>(radius * std::cos(angle)));
        values.push_back(static_cast<float>(radius * std::sin(angle)));
    }
    values.resize(count);
    return values;
}

} // namespace actquant
