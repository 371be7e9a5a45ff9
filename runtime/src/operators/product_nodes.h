#pragma once

#include "graph/graph_builder.h"

namespace actquant {

// Appends x Wᵀ + bias: x [width, rows] contiguous, weight [columns, out] with columns >= width (the
// rest of its rows is padding), bias [out] or null. By our kernels where they take the weight's
// type and rows are to be rounded, else by ggml's. Returns [out, rows].
ggml_tensor* product_nodes(GraphBuilder& graph, ggml_tensor* weight, ggml_tensor* x,
                           ggml_tensor* bias);

// Has the product that x is, or is a view of all of, applied a function in place to its results.
// False where x is no product by our kernels, or has a function already. What reads x then reads
// the results.
bool finish_product(ggml_tensor* x, void (*function)(const float* x, float* y, int64_t count));

// Has the product that x is, or is a view of all of, add as many elements of another tensor to its
// results. False as above, and where the tensor is not contiguous.
bool add_to_product(ggml_tensor* x, ggml_tensor* addend);

} // namespace actquant
