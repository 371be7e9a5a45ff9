#pragma once

#include "graph/graph_builder.h"

namespace actquant {

// Appends a normalisation of x along its rows by our kernels; scale and shift [width, 1, 1, 1],
// contiguous, or null.
ggml_tensor* rms_norm_node(GraphBuilder& graph, ggml_tensor* x, ggml_tensor* scale, float eps);
ggml_tensor* layer_norm_node(GraphBuilder& graph, ggml_tensor* x, ggml_tensor* scale,
                             ggml_tensor* shift, float eps);

} // namespace actquant
