#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace actquant::tools {

struct NpyArray {
    std::vector<int64_t> shape;
    std::vector<float> values;
};

// Reads a NumPy file (.npy) of float32 in C order.
NpyArray read_npy(const std::string& path);

} // namespace actquant::tools
