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

// The sources of a product's node.
enum Source { memory_source, bias_source, addend_source };

const float* floats_of(const ggml_tensor* y, Source source) {
    return y->src[source] == nullptr ? nullptr : static_cast<const float*>(y->src[source]->data);
}

// Of one panel, while they are in a near cache.
void finish_columns(const Product& product, ggml_tensor* y, int64_t first) {
    const float* addend = floats_of(y, addend_source);
    int64_t columns = product.weight->ne[1];
    int64_t count = std::min(PANEL_ROWS, columns - first);
    for (int64_t row = 0; row < product.rows; row++) {
        int64_t at = row * columns + first;
        float* values = static_cast<float*>(y->data) + at;
        if (product.finish != nullptr) {
            product.finish(values, values, count);
        }
        for (int64_t k = 0; k < count && addend != nullptr; k++) {
            values[k] += addend[at + k];
        }
    }
}

// Panels first to end - 1; scratch has room for one.
void multiply_panels(const Product& product, ggml_tensor* y, int64_t first, int64_t end,
                     char* scratch) {
    const PanelKernel& kernel = *product.kernel;
    size_t stride = panel_stride(product.weight, kernel);
    const float* bias = floats_of(y, bias_source);
    bool is_finished = product.finish == nullptr && y->src[addend_source] == nullptr;
    float* results = static_cast<float*>(y->data);
    for (int64_t k = first; k < end; k++) {
        const char* panel = scratch;
        if (product.panels != nullptr) {
            panel = product.panels + static_cast<size_t>(k) * stride;
        } else {
            kernel.unpack(packed_rows(product.weight, kernel), k * PANEL_ROWS, scratch);
        }
        kernel.multiply(panel, aligned(y->src[memory_source]->data), product.weight->ne[0],
                        product.rows, bias, results, product.weight->ne[1], k * PANEL_ROWS);
        if (!is_finished) {
            finish_columns(product, y, k * PANEL_ROWS);
        }
    }
}

void multiply(ggml_tensor* y, int thread, int threads, void* data) {
    const Product& product = *static_cast<const Product*>(data);
    char* scratch = aligned(y->src[memory_source]->data) + activation_bytes(product);
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
    ggml_tensor* y = graph.product(weight, x);
    return bias == nullptr ? y : ggml_add(graph.ggml, y, bias);
}

// The product's node that x is or views; null where it is none of our kernels.
ggml_tensor* product_of(ggml_tensor* x) {
    ggml_tensor* y = x->view_src == nullptr ? x : x->view_src;
    return y->extra != nullptr && ggml_nelements(x) == ggml_nelements(y) ? y : nullptr;
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
    ggml_tensor* y = product_of(x);
    if (y == nullptr) {
        return false;
    }
    Product& product = *static_cast<Product*>(y->extra);
    if (product.finish != nullptr || y->src[addend_source] != nullptr) {
        return false;
    }
    product.finish = function;
    return true;
}

bool add_to_product(ggml_tensor* x, ggml_tensor* addend) {
    ggml_tensor* y = product_of(x);
    if (y == nullptr || y->src[addend_source] != nullptr || !ggml_is_contiguous(addend) ||
        ggml_nelements(addend) != ggml_nelements(y)) {
        return false;
    }
    y->src[addend_source] = addend;
    return true;
}

} // namespace actquant
