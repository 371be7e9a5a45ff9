#pragma once

#include "program/program.h"

namespace actquant {

// What `slice` takes along its dimension.
struct Range {
    int64_t start = 0;
    int64_t step = 1;
    int64_t count = 0;
};

// Of the attributes start, end (open without it) and step (1 without it); negative positions count
// from the end of `extent`, and those outside are moved to its border.
Range slice_range(const Instruction& instruction, int64_t extent);

// The source's dimensions in the result's order (attribute perm); negative ones count from the end.
std::vector<size_t> permutation(const Instruction& instruction, const Shape& source);

} // namespace actquant
