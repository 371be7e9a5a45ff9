#include "operators/product_nodes.h"

#include "common/alignment.h"
#include "kernels/panel_product.h"
#include "operators/share_out.h"
#include "weights/panels.h"

#include <algorithm>

namespace actquant {
namespace {

// Fewer rows than these do not pay for unpacking a weight: ggml multiplies blocks as they are.
constexpr int64_t min_rows = 12;

// Below, weights are so coarse that rounding them to 8-bit integers is lost in their own error.
constexpr double int8_below_bits = 5.0;

struct Product {
    const PanelKernel* kernel;
    const ggml_tensor* weight;
    int64_t width; // of x
    int64_t rows;
    WorkPool* pool;
    const char* panels = nullptr; // of the whole weight, or each is unpacked when it is needed
    void (*finish)(const float* x, float* y, int64_t count) = nullptr; // in place, on all results
};

size_t activation_bytes(const Product& product) {
    return aligned(product.kernel->activation_bytes(product.weight->ne[0], product.rows));
}

const PanelKernel* kernel_for(const GraphBuilder& graph, ggml_type type) {
    bool is_block = ggml_is_quantized(type) || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
    if (!graph.rounded || !is_block) {
        return nullptr;
    }
    double bits =
        8.0 * static_cast<double>(ggml_type_size(type)) / static_cast<double>(ggml_blck_size(type));
    return bits < int8_below_bits ? int8_kernel(graph.isa) : bfloat16_kernel(graph.isa);
}

// The memory for rounded activations, and behind them for one panel of every thread, is the first
// node's result.
void round_activations(ggml_tensor* memory, int thread, int threads, void* data) {
    const Product& product = *static_cast<const Product*>(data);
    int64_t rows = product.rows;
    share_out(product.pool, thread, threads, [&](int part, int parts, int) {
        product.kernel->round(static_cast<const float*>(memory->src[0]->data), product.width,
                              product.weight->ne[0], rows, rows * part / parts,
                              rows * (part + 1) / parts, aligned(memory->data));
    });
}

// Of one panel, while they are in a near cache.
void finish_columns(const Product& product, float* y, int64_t first) {
    int64_t columns = product.weight->ne[1];
    int64_t count = std::min(PANEL_ROWS, columns - first);
    for (int64_t row = 0; row < product.rows; row++) {
        float* values = y + row * columns + first;
        product.finish(values, values, count);
    }
}

// Panels first to end - 1; scratch has room for one.
void multiply_panels(const Product& product, ggml_tensor* y, int64_t first, int64_t end,
                     char* scratch) {
    const PanelKernel& kernel = *product.kernel;
    size_t stride = panel_stride(product.weight, kernel);
    const float* bias = y->src[1] == nullptr ? nullptr : static_cast<const float*>(y->src[1]->data);
    float* results = static_cast<float*>(y->data);
    for (int64_t k = first; k < end; k++) {
        const char* panel = scratch;
        if (product.panels != nullptr) {
            panel = product.panels + static_cast<size_t>(k) * stride;
        } else {
            kernel.unpack(packed_rows(product.weight, kernel), k * PANEL_ROWS, scratch);
        }
        kernel.multiply(panel, aligned(y->src[0]->data), product.weight->ne[0], product.rows, bias,
                        results, product.weight->ne[1], k * PANEL_ROWS);
        if (product.finish != nullptr) {
            finish_columns(product, results, k * PANEL_ROWS);
        }
    }
}

void multiply(ggml_tensor* y, int thread, int threads, void* data) {
    const Product& product = *static_cast<const Product*>(data);
    char* scratch = aligned(y->src[0]->data) + activation_bytes(product);
    size_t stride = panel_stride(product.weight, *product.kernel);
    int64_t panels = (product.weight->ne[1] + PANEL_ROWS - 1) / PANEL_ROWS;
    share_out(product.pool, thread, threads, [&](int part, int parts, int worker) {
        multiply_panels(product, y, panels * part / parts, panels * (part + 1) / parts,
                        scratch + static_cast<size_t>(worker) * stride);
    });
}

ggml_tensor* ggml_product(GraphBuilder& graph, ggml_tensor* weight, ggml_tensor* x,
                          ggml_tensor* bias) {
    int64_t padding = weight->ne[0] - x->ne[0];
    if (padding > 0) {
        x = ggml_pad(graph.ggml, x, static_cast<int>(padding), 0, 0, 0);
    }
    ggml_tensor* y = ggml_mul_mat(graph.ggml, weight, x);
    return bias == nullptr ? y : ggml_add(graph.ggml, y, bias);
}

} // namespace

ggml_tensor* product_nodes(GraphBuilder& graph, ggml_tensor* weight, ggml_tensor* x,
                           ggml_tensor* bias) {
    const PanelKernel* kernel = kernel_for(graph, weight->type);
    if (kernel == nullptr || (x->ne[1] < min_rows && !graph.in_loop)) {
        return ggml_product(graph, weight, x, bias);
    }
    graph.kernel = kernel->name;
    Product* product = graph.keep(Product{kernel, weight, x->ne[0], x->ne[1], graph.pool});
    if (graph.in_loop) {
        product->panels = graph.panels(weight, *kernel);
    }
    // Layers that read the same activations share them rounded, and the room behind them: kernels
    // count a weight's columns in whole 256s, so that padding to other blocks makes no difference.
    ggml_tensor*& memory = graph.derived(x, kernel);
    if (memory == nullptr) {
        size_t bytes = cache_line + activation_bytes(*product) +
                       static_cast<size_t>(graph.threads) * panel_stride(weight, *kernel);
        memory = ggml_custom_4d(graph.ggml, GGML_TYPE_I8, static_cast<int64_t>(bytes), 1, 1, 1, &x,
                                1, round_activations, GGML_N_TASKS_MAX, product);
    }
    ggml_tensor* operands[] = {memory, bias};
    ggml_tensor* y =
        ggml_custom_4d(graph.ggml, GGML_TYPE_F32, weight->ne[1], x->ne[1], 1, 1, operands,
                       bias == nullptr ? 1 : 2, multiply, GGML_N_TASKS_MAX, product);
    y->extra = product; // the CPU backend leaves it alone: nothing else here sets it
    return y;
}

bool finish_product(ggml_tensor* x, void (*function)(const float*, float*, int64_t)) {
    ggml_tensor* y = x->view_src == nullptr ? x : x->view_src;
    Product* product = static_cast<Product*>(y->extra);
    if (product == nullptr || product->finish != nullptr ||
        ggml_nelements(x) != ggml_nelements(y)) {
        return false;
    }
    product->finish = function;
    return true;
}

} // namespace actquant
