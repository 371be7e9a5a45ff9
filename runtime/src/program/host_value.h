#pragma once

#include "program/shape.h"

#include <vector>

namespace actquant {

// A value computed on the host. Integers and booleans are kept as doubles too: exact to 2^53.
struct HostValue {
    DType dtype = DType::f32;
    Shape shape;
    std::vector<double> data;
};

} // namespace actquant
