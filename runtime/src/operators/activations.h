#pragma once

#include "graph/graph_builder.h"

namespace actquant {

// Nodes for contiguous f32 tensors, by our kernels but for a device: ggml's CPU kernel for the tanh
// form of GELU looks the result up in an f16 table, and it lacks Mish.
ggml_tensor* gelu_tanh_node(GraphBuilder& graph, ggml_tensor* x);
// gelu_tanh(x) · gate
ggml_tensor* gelu_tanh_times_node(GraphBuilder& graph, ggml_tensor* x, ggml_tensor* gate);
// x · tanh(softplus(x))
ggml_tensor* mish_node(GraphBuilder& graph, ggml_tensor* x);

} // namespace actquant
