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

// The dimensions that a reduction takes away (attribute dims), each once.
std::vector<size_t> reduced_dimensions(const Instruction& instruction, const Shape& source);
// What is left of the source's shape; as units where the attribute keep is 1.
Shape reduced_shape(const Instruction& instruction, const Shape& source);

} // namespace actquant
