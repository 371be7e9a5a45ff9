#include "operators/norm_nodes.h"

#include "kernels/norms.h"
#include "operators/share_out.h"

namespace actquant {
namespace {

struct Norm {
    const NormKernels& kernels;
    WorkPool* pool;
    bool centred; // layer_norm, else rms_norm
    bool has_scale;
    bool has_shift;
    float eps;
};

const float* row_of(const ggml_tensor* x, int64_t row) {
    int64_t i1 = row % x->ne[1];
    int64_t i2 = row / x->ne[1] % x->ne[2];
    int64_t i3 = row / x->ne[1] / x->ne[2];
    return reinterpret_cast<const float*>(
        static_cast<const char*>(x->data) + static_cast<size_t>(i1) * x->nb[1] +
        static_cast<size_t>(i2) * x->nb[2] + static_cast<size_t>(i3) * x->nb[3]);
}

void normalize(ggml_tensor* y, int thread, int threads, void* data) {
    const Norm& norm = *static_cast<const Norm*>(data);
    const ggml_tensor* x = y->src[0];
    auto floats = [&](int source) { return static_cast<const float*>(y->src[source]->data); };
    const float* scale = norm.has_scale ? floats(1) : nullptr;
    const float* shift = norm.has_shift ? floats(norm.has_scale ? 2 : 1) : nullptr;
    int64_t width = y->ne[0];
    int64_t rows = ggml_nrows(y);
    share_out(norm.pool, thread, threads, [&](int part, int parts, int) {
        for (int64_t row = rows * part / parts; row < rows * (part + 1) / parts; row++) {
            float* result = static_cast<float*>(y->data) + row * width;
            if (norm.centred) {
                norm.kernels.layer_norm(row_of(x, row), scale, shift, norm.eps, width, result);
            } else {
                norm.kernels.rms_norm(row_of(x, row), scale, norm.eps, width, result);
            }
        }
    });
}

ggml_tensor* norm_node(GraphBuilder& graph, ggml_tensor* x, ggml_tensor* scale, ggml_tensor* shift,
                       bool centred, float eps) {
    Norm* norm = graph.keep(Norm{norm_kernels(graph.isa), graph.pool, centred, scale != nullptr,
                                 shift != nullptr, eps});
    ggml_tensor* operands[3] = {x};
    int count = 1;
    for (ggml_tensor* operand : {scale, shift}) {
        if (operand != nullptr) {
            operands[count++] = operand;
        }
    }
    return ggml_custom_4d(graph.ggml, GGML_TYPE_F32, x->ne[0], x->ne[1], x->ne[2], x->ne[3],
                          operands, count, normalize, GGML_N_TASKS_MAX, norm);
}

} // namespace

ggml_tensor* rms_norm_node(GraphBuilder& graph, ggml_tensor* x, ggml_tensor* scale, float eps) {
    return norm_node(graph, x, scale, nullptr, false, eps);
}

ggml_tensor* layer_norm_node(GraphBuilder& graph, ggml_tensor* x, ggml_tensor* scale,
                             ggml_tensor* shift, float eps) {
    return norm_node(graph, x, scale, shift, true, eps);
}

} // namespace actquant
