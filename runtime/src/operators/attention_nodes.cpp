#include "operators/attention_nodes.h"

#include "common/alignment.h"
#include "kernels/attention.h"
#include "operators/share_out.h"

namespace actquant {
namespace {

struct Attention {
    const AttentionKernel* kernel;
    AttentionShape shape;
    WorkPool* pool;
};

Rows rows_of(const ggml_tensor* tensor) {
    return {tensor->data, tensor->nb[3], tensor->nb[2], tensor->nb[1]};
}

// Dimensions that are broadcast have a stride of 0.
Rows mask_rows(const ggml_tensor* mask) {
    return {mask->data, mask->ne[3] == 1 ? 0 : mask->nb[3], mask->ne[2] == 1 ? 0 : mask->nb[2],
            mask->nb[1]};
}

// The memory for packed keys and values, and behind them for every thread's scratch, is the first
// node's result.
void pack(ggml_tensor* memory, int thread, int threads, void* data) {
    const Attention& attention = *static_cast<const Attention*>(data);
    AttentionOperands operands;
    operands.k = rows_of(memory->src[0]);
    operands.v = rows_of(memory->src[1]);
    operands.packed = aligned(memory->data);
    share_out(attention.pool, thread, threads, [&](int part, int parts, int) {
        attention.kernel->pack(attention.shape, operands, part, parts);
    });
}

void attend(ggml_tensor* result, int thread, int threads, void* data) {
    const Attention& attention = *static_cast<const Attention*>(data);
    const AttentionKernel& kernel = *attention.kernel;
    char* memory = aligned(result->src[0]->data);
    AttentionOperands operands;
    operands.packed = memory;
    operands.q = rows_of(result->src[1]);
    if (result->src[2] != nullptr) {
        operands.mask = mask_rows(result->src[2]);
    }
    operands.result = static_cast<float*>(result->data);
    char* scratch = memory + aligned(kernel.packed_bytes(attention.shape));
    size_t scratch_bytes = aligned(kernel.scratch_bytes(attention.shape));
    share_out(attention.pool, thread, threads, [&](int part, int parts, int worker) {
        kernel.attend(attention.shape, operands,
                      scratch + static_cast<size_t>(worker) * scratch_bytes, part, parts);
    });
}

} // namespace

ggml_tensor* attention_nodes(GraphBuilder& graph, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v,
                             ggml_tensor* mask, float scale) {
    const AttentionKernel& kernel = attention_kernel(graph.isa, graph.rounded);
    graph.kernel = kernel.products;
    AttentionShape shape{q->ne[3], q->ne[2], k->ne[2], q->ne[1],
                         k->ne[1], q->ne[0], v->ne[0], scale};
    Attention* attention = graph.keep(Attention{&kernel, shape, graph.pool});
    size_t bytes = cache_line + aligned(kernel.packed_bytes(shape)) +
                   static_cast<size_t>(graph.threads) * aligned(kernel.scratch_bytes(shape));
    ggml_tensor* packed_from[] = {k, v};
    ggml_tensor* memory = ggml_custom_4d(graph.ggml, GGML_TYPE_I8, static_cast<int64_t>(bytes), 1,
                                         1, 1, packed_from, 2, pack, GGML_N_TASKS_MAX, attention);
    ggml_tensor* operands[] = {memory, q, mask};
    ggml_tensor* y =
        ggml_custom_4d(graph.ggml, GGML_TYPE_F32, v->ne[0], q->ne[2], q->ne[1], q->ne[3], operands,
                       mask == nullptr ? 2 : 3, attend, GGML_N_TASKS_MAX, attention);
    return ggml_permute(graph.ggml, y, 0, 2, 1, 3);
}

} // namespace actquant
