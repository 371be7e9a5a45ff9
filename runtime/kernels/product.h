#pragma once

#include <ggml.h>

#include <vector>

namespace actquant {

// One way of multiplying activations by a weight of some types.
struct ProductKernel {
    const char* name;
    bool (*takes)(ggml_type weight);
    // Appends weight [width, out] · x [width, rows] to the graph: [out, rows].
    ggml_tensor* (*build)(ggml_context* ggml, ggml_tensor* weight, ggml_tensor* x);
};

// In order of preference; the last one takes every type.
const std::vector<ProductKernel>& product_kernels();

// The product by the first kernel that takes the weight's type.
ggml_tensor* product(ggml_context* ggml, ggml_tensor* weight, ggml_tensor* x);

} // namespace actquant
