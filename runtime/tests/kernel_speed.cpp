// How fast the kernels are on one core, and ggml's beside them in turns. Not a test.
//
//   kernel_speed [COLUMNS OUTPUTS]
#include "kernels/attention.h"
#include "kernels/dequantize.h"
#include "kernels/panel_product.h"

#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

using namespace actquant;

namespace {

constexpr int turns = 7;

double seconds(const std::function<void()>& work) {
    auto begin = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::vector<float> normal_values(int64_t count) {
    static std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<size_t>(count));
    std::generate(values.begin(), values.end(), [&] { return normal(random); });
    return values;
}

struct Memory {
    explicit Memory(size_t bytes)
        : data(std::aligned_alloc(64, (bytes + 63) / 64 * 64), std::free) {}
    std::unique_ptr<void, void (*)(void*)> data;
};

// A graph of one node, with a work buffer on a cache line.
struct GgmlNode {
    explicit GgmlNode(const std::function<ggml_tensor*(ggml_context*)>& build)
        : ggml(ggml_init({size_t{256} << 20, nullptr, false}), ggml_free),
          graph(ggml_new_graph(ggml.get())) {
        ggml_build_forward_expand(graph, build(ggml.get()));
        plan = ggml_graph_plan(graph, 1, nullptr);
        work = std::make_unique<Memory>(plan.work_size + 64);
        plan.work_data = static_cast<uint8_t*>(work->data.get());
    }
    void run() { ggml_graph_compute(graph, &plan); }

    std::unique_ptr<ggml_context, void (*)(ggml_context*)> ggml;
    ggml_cgraph* graph;
    ggml_cplan plan;
    std::unique_ptr<Memory> work;
};

struct Times {
    double round = 1e9, unpack = 1e9, multiply = 1e9;
};

Times product_times(const PanelKernel& kernel, const PackedRows& weight,
                    const std::vector<float>& x, int64_t rows, Times best) {
    Memory activations(kernel.activation_bytes(weight.columns, rows));
    Memory panel(kernel.panel_bytes(weight.columns));
    std::vector<float> y(static_cast<size_t>(rows * weight.rows));
    Times once{0, 0, 0};
    once.round = seconds([&] {
        kernel.round(x.data(), weight.columns, weight.columns, rows, 0, rows,
                     activations.data.get());
    });
    for (int64_t first = 0; first < weight.rows; first += PANEL_ROWS) {
        once.unpack += seconds([&] { kernel.unpack(weight, first, panel.data.get()); });
        once.multiply += seconds([&] {
            kernel.multiply(panel.data.get(), activations.data.get(), weight.columns, rows, nullptr,
                            y.data(), weight.rows, first);
        });
    }
    return {std::min(best.round, once.round), std::min(best.unpack, once.unpack),
            std::min(best.multiply, once.multiply)};
}

void products(ggml_type type, int64_t columns, int64_t outputs) {
    std::vector<float> floats = normal_values(columns * outputs);
    std::vector<float> importance(static_cast<size_t>(columns), 1.0f);
    std::vector<char> blocks(ggml_row_size(type, columns) * static_cast<size_t>(outputs));
    ggml_quantize_chunk(type, floats.data(), blocks.data(), 0, outputs, columns, importance.data());
    for (int64_t rows : {50, 1024}) {
        std::vector<float> x = normal_values(columns * rows);
        GgmlNode node([&](ggml_context* ggml) {
            ggml_tensor* weight = ggml_new_tensor_2d(ggml, type, columns, outputs);
            ggml_tensor* input = ggml_new_tensor_2d(ggml, GGML_TYPE_F32, columns, rows);
            std::memcpy(weight->data, blocks.data(), blocks.size());
            std::memcpy(input->data, x.data(), x.size() * sizeof(float));
            return ggml_mul_mat(ggml, weight, input);
        });
        std::vector<std::pair<const PanelKernel*, Times>> tried;
        for (Isa isa : present_isas()) {
            for (const PanelKernel* kernel : {int8_kernel(isa), bfloat16_kernel(isa)}) {
                if (kernel != nullptr && (tried.empty() || tried.back().first != kernel) &&
                    kernel->isa == isa) {
                    tried.push_back({kernel, Times()});
                }
            }
        }
        double ggmls = 1e9;
        for (int turn = 0; turn < turns; turn++) {
            ggmls = std::min(ggmls, seconds([&] { node.run(); }));
            for (auto& [kernel, best] : tried) {
                PackedRows weight{blocks.data(),
                                  ggml_row_size(type, columns),
                                  ggml_blck_size(type),
                                  ggml_type_size(type),
                                  columns,
                                  outputs,
                                  to_float(kernel->isa, type)};
                best = product_times(*kernel, weight, x, rows, best);
            }
        }
        double operations = 2.0 * static_cast<double>(columns * outputs * rows) / 1e9;
        std::printf("%-8s %4ld rows  ggml %6.0f GOP/s\n", ggml_type_name(type),
                    static_cast<long>(rows), operations / ggmls);
        for (const auto& [kernel, best] : tried) {
            std::printf("  %-8s %-12s %6.0f GOP/s, panels kept %6.0f, products alone %6.0f; "
                        "unpacking %.2f ns a weight\n",
                        kernel->name, isa_name(kernel->isa),
                        operations / (best.round + best.unpack + best.multiply),
                        operations / (best.round + best.multiply), operations / best.multiply,
                        best.unpack * 1e9 / static_cast<double>(columns * outputs));
        }
    }
}

void attention(const AttentionShape& s) {
    std::vector<float> q = normal_values(s.heads * s.queries * s.width);
    std::vector<float> k = normal_values(s.kv_heads * s.keys * s.width);
    std::vector<float> v = normal_values(s.kv_heads * s.keys * s.value_width);
    std::vector<float> y(static_cast<size_t>(s.heads * s.queries * s.value_width));
    auto rows = [](const std::vector<float>& data, int64_t count, int64_t width) {
        size_t row = static_cast<size_t>(width) * sizeof(float);
        return Rows{data.data(), 0, static_cast<size_t>(count) * row, row};
    };
    GgmlNode node([&](ggml_context* ggml) {
        auto filled = [&](const std::vector<float>& data, int64_t count, int64_t heads) {
            ggml_tensor* t = ggml_new_tensor_4d(ggml, GGML_TYPE_F32, s.width, count, heads, 1);
            std::memcpy(t->data, data.data(), data.size() * sizeof(float));
            return t;
        };
        return ggml_flash_attn_ext(ggml, filled(q, s.queries, s.heads),
                                   filled(k, s.keys, s.kv_heads), filled(v, s.keys, s.kv_heads),
                                   nullptr, s.scale, 0.0f, 0.0f);
    });
    std::vector<std::pair<const AttentionKernel*, double>> tried;
    for (Isa isa : present_isas()) {
        for (bool rounded : {false, true}) {
            const AttentionKernel* kernel = &attention_kernel(isa, rounded);
            auto same = [&](const auto& other) { return other.first == kernel; };
            if (std::none_of(tried.begin(), tried.end(), same)) {
                tried.push_back({kernel, 1e9});
            }
        }
    }
    double ggmls = 1e9;
    for (int turn = 0; turn < turns; turn++) {
        ggmls = std::min(ggmls, seconds([&] { node.run(); }));
        for (auto& [kernel, best] : tried) {
            Memory packed(kernel->packed_bytes(s));
            Memory scratch(kernel->scratch_bytes(s));
            AttentionOperands operands;
            operands.q = rows(q, s.queries, s.width);
            operands.k = rows(k, s.keys, s.width);
            operands.v = rows(v, s.keys, s.value_width);
            operands.packed = packed.data.get();
            operands.result = y.data();
            best = std::min(best, seconds([&] {
                                kernel->pack(s, operands, 0, 1);
                                kernel->attend(s, operands, scratch.data.get(), 0, 1);
                            }));
        }
    }
    double operations = 4.0 * static_cast<double>(s.heads * s.queries * s.keys * s.width) / 1e9;
    std::printf("attention, %ld queries, %ld keys, %ld heads of %ld  ggml %4.0f GOP/s\n",
                static_cast<long>(s.queries), static_cast<long>(s.keys), static_cast<long>(s.heads),
                static_cast<long>(s.width), operations / ggmls);
    for (const auto& [kernel, best] : tried) {
        std::printf("  %-12s %4.0f GOP/s\n", kernel->name, operations / best);
    }
}

} // namespace

int main(int count, char** arguments) {
    ggml_cpu_init();
    int64_t columns = count > 2 ? std::atol(arguments[1]) : 768;
    int64_t outputs = count > 2 ? std::atol(arguments[2]) : 3072;
    if (columns < 256 || columns % 256 != 0 || outputs < 1) {
        std::fprintf(stderr, "kernel_speed [COLUMNS OUTPUTS]; COLUMNS are a multiple of 256\n");
        return 2;
    }
    attention({1, 12, 12, 1024, 1024, 64, 64, 0.125f});
    attention({1, 15, 5, 50, 291, 64, 64, 0.125f});
    attention({1, 8, 1, 51, 900, 256, 256, 0.0625f});
    for (ggml_type type : {GGML_TYPE_IQ1_M, GGML_TYPE_IQ2_S, GGML_TYPE_IQ3_S, GGML_TYPE_Q3_K,
                           GGML_TYPE_IQ4_XS, GGML_TYPE_Q6_K, GGML_TYPE_Q8_0}) {
        products(type, columns, outputs);
    }
}
