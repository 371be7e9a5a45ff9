#include "program/dimensions.h"

#include <algorithm>

namespace actquant {

Range slice_range(const Instruction& instruction, int64_t extent) {
    Range range;
    range.start = instruction.integer("start");
    range.step = instruction.has("step") ? instruction.integer("step") : 1;
    int64_t end = instruction.has("end") ? instruction.integer("end") : extent;
    range.start =
        std::clamp<int64_t>(range.start < 0 ? range.start + extent : range.start, 0, extent);
    end = std::clamp<int64_t>(end < 0 ? end + extent : end, 0, extent);
    if (range.step < 1 || end <= range.start) {
        instruction.fail("the slice is empty or its step is below 1");
    }
    range.count = (end - range.start - 1) / range.step + 1;
    range.step = range.count == 1 ? 1 : range.step;
    return range;
}

std::vector<size_t> permutation(const Instruction& instruction, const Shape& source) {
    Shape order = instruction.integers("perm");
    std::vector<size_t> result;
    std::vector<bool> seen(source.size(), false);
    for (int64_t dimension : order) {
        dimension += dimension < 0 ? static_cast<int64_t>(source.size()) : 0;
        if (dimension < 0 || dimension >= static_cast<int64_t>(source.size()) || seen[dimension]) {
            instruction.fail("perm does not fit the operand " + to_string(source));
        }
        seen[dimension] = true;
        result.push_back(dimension);
    }
    if (result.size() != source.size()) {
        instruction.fail("perm does not fit the operand " + to_string(source));
    }
    return result;
}

std::vector<size_t> reduced_dimensions(const Instruction& instruction, const Shape& source) {
    std::vector<size_t> result;
    for (int64_t dimension : instruction.integers("dims")) {
        dimension += dimension < 0 ? static_cast<int64_t>(source.size()) : 0;
        if (dimension < 0 || dimension >= static_cast<int64_t>(source.size())) {
            instruction.fail("dims does not fit the operand " + to_string(source));
        }
        size_t known = static_cast<size_t>(dimension);
        if (std::find(result.begin(), result.end(), known) == result.end()) {
            result.push_back(known);
        }
    }
    return result;
}

Shape reduced_shape(const Instruction& instruction, const Shape& source) {
    std::vector<size_t> reduced = reduced_dimensions(instruction, source);
    bool keeps = instruction.integer("keep", 0, 1) == 1;
    Shape result;
    for (size_t k = 0; k < source.size(); k++) {
        bool is_reduced = std::find(reduced.begin(), reduced.end(), k) != reduced.end();
        if (!is_reduced) {
            result.push_back(source[k]);
        } else if (keeps) {
            result.push_back(1);
        }
    }
    return result;
}

} // namespace actquant
