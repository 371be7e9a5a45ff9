#include "operators/activations.h"

#include "kernels/activations.h"
#include "operators/share_out.h"

namespace actquant {
namespace {

struct Activation {
    const ActivationKernels& kernels;
    WorkPool* pool;
};

Activation* activation_of(GraphBuilder& graph) {
    return graph.keep(Activation{activation_kernels(graph.isa), graph.pool});
}

// work(activation, first, count) for a part of the elements.
template <typename Work>
void share_elements(const ggml_tensor* tensor, int thread, int threads, void* data, Work work) {
    const Activation& activation = *static_cast<const Activation*>(data);
    int64_t count = ggml_nelements(tensor);
    share_out(activation.pool, thread, threads, [&](int part, int parts, int) {
        int64_t first = count * part / parts;
        work(activation.kernels, first, count * (part + 1) / parts - first);
    });
}

const float* floats(const ggml_tensor* tensor) {
    return static_cast<const float*>(tensor->data);
}

void gelu_tanh(ggml_tensor* y, const ggml_tensor* x, int thread, int threads, void* data) {
    share_elements(y, thread, threads, data, [&](auto& kernels, int64_t first, int64_t count) {
        kernels.gelu_tanh(floats(x) + first, static_cast<float*>(y->data) + first, count);
    });
}

void gelu_tanh_times(ggml_tensor* y, const ggml_tensor* x, const ggml_tensor* gate, int thread,
                     int threads, void* data) {
    share_elements(y, thread, threads, data, [&](auto& kernels, int64_t first, int64_t count) {
        kernels.gelu_tanh_times(floats(x) + first, floats(gate) + first,
                                static_cast<float*>(y->data) + first, count);
    });
}

void mish(ggml_tensor* y, const ggml_tensor* x, int thread, int threads, void* data) {
    share_elements(y, thread, threads, data, [&](auto& kernels, int64_t first, int64_t count) {
        kernels.mish(floats(x) + first, static_cast<float*>(y->data) + first, count);
    });
}

} // namespace

ggml_tensor* gelu_tanh_node(GraphBuilder& graph, ggml_tensor* x) {
    if (graph.on_device) {
        return ggml_gelu(graph.ggml, x);
    }
    return ggml_map_custom1(graph.ggml, x, gelu_tanh, GGML_N_TASKS_MAX, activation_of(graph));
}

ggml_tensor* gelu_tanh_times_node(GraphBuilder& graph, ggml_tensor* x, ggml_tensor* gate) {
    if (graph.on_device) {
        return ggml_geglu_split(graph.ggml, x, gate);
    }
    return ggml_map_custom2(graph.ggml, x, gate, gelu_tanh_times, GGML_N_TASKS_MAX,
                            activation_of(graph));
}

ggml_tensor* mish_node(GraphBuilder& graph, ggml_tensor* x) {
    if (graph.on_device) {
        return ggml_mul(graph.ggml, x, ggml_tanh(graph.ggml, ggml_softplus(graph.ggml, x)));
    }
    return ggml_map_custom1(graph.ggml, x, mish, GGML_N_TASKS_MAX, activation_of(graph));
}

} // namespace actquant
