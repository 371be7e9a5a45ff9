#pragma once

#include "graph/graph_builder.h"

namespace actquant {

// Appends softmax(scale · q kᵀ + mask) v by our kernels. q [D, L, H, B], k and v [D, M, G, B] with
// contiguous rows, G divides H; mask [M, L, H or 1, B or 1] or null. Returns a view [D, L, H, B].
ggml_tensor* attention_nodes(GraphBuilder& graph, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v,
                             ggml_tensor* mask, float scale);

} // namespace actquant
