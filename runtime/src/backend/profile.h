#pragma once

#include <map>
#include <string>
#include <tuple>

namespace actquant {

// What an operator of a program costs: counted from its shapes, but for the time.
struct OperatorCost {
    int calls = 0;
    double seconds = 0;
    double operations = 0;   // multiplications and additions; elements where it does not multiply
    double weight_bytes = 0; // of the file's tensors that it reads, as they are stored
};

// What a program's operators cost while a policy acts.
class Profile {
  public:
    // By stage, operator, and what computes it: a kernel of ours, or ggml.
    using Key = std::tuple<std::string, std::string, std::string>;

    void add(const Key& key, const OperatorCost& cost) {
        OperatorCost& total = table[key];
        total.calls += cost.calls;
        total.seconds += cost.seconds;
        total.operations += cost.operations;
        total.weight_bytes += cost.weight_bytes;
    }
    const std::map<Key, OperatorCost>& costs() const { return table; }

  private:
    std::map<Key, OperatorCost> table;
};

} // namespace actquant
