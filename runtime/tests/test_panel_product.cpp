// Products of every type of weight by every kernel that this processor can run, against float64,
// and ggml's own beside them.
#include "check.h"
#include "kernels/dequantize.h"
#include "kernels/panel_product.h"

#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

using namespace actquant;

namespace {

struct Sizes {
    int64_t columns; // of the weight, whole blocks
    int64_t width;   // of x: the rest of a row of the weight is padding
    int64_t outputs;
    int64_t rows;
};

struct Problem {
    Sizes sizes;
    ggml_type type;
    std::vector<char> weight;
    std::vector<float> x, bias;
    std::vector<double> expected;
};

std::vector<float> normal_values(int64_t count, std::mt19937& random) {
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<size_t>(count));
    std::generate(values.begin(), values.end(), [&] { return normal(random); });
    return values;
}

Problem problem(ggml_type type, const Sizes& s) {
    std::mt19937 random(static_cast<unsigned>(s.rows + s.outputs));
    Problem made{s, type, {}, {}, {}, {}};
    // Encoders are slow: these rows come again and again.
    int64_t encoded = std::min<int64_t>(s.outputs, 13);
    std::vector<float> floats = normal_values(s.columns * encoded, random);
    std::vector<float> importance(static_cast<size_t>(s.columns), 1.0f);
    size_t row_bytes = ggml_row_size(type, s.columns);
    made.weight.resize(row_bytes * static_cast<size_t>(s.outputs));
    ggml_quantize_chunk(type, floats.data(), made.weight.data(), 0, encoded, s.columns,
                        importance.data());
    for (int64_t row = encoded; row < s.outputs; row++) {
        std::memcpy(made.weight.data() + static_cast<size_t>(row) * row_bytes,
                    made.weight.data() + static_cast<size_t>(row % encoded) * row_bytes, row_bytes);
    }
    floats.resize(static_cast<size_t>(s.columns * s.outputs));
    ggml_get_type_traits(type)->to_float(made.weight.data(), floats.data(), s.columns * s.outputs);
    made.x = normal_values(s.width * s.rows, random);
    made.bias = normal_values(s.outputs, random);
    for (int64_t n = 0; n < s.rows; n++) {
        for (int64_t m = 0; m < s.outputs; m++) {
            double sum = made.bias[m];
            for (int64_t k = 0; k < s.width; k++) {
                sum += static_cast<double>(made.x[n * s.width + k]) * floats[m * s.columns + k];
            }
            made.expected.push_back(sum);
        }
    }
    return made;
}

double error_of(const std::vector<float>& found, const Problem& problem) {
    double error = 0, size = 0;
    for (size_t k = 0; k < found.size(); k++) {
        error += std::pow(found[k] - problem.expected[k], 2);
        size += std::pow(problem.expected[k] - problem.bias[k % problem.bias.size()], 2);
    }
    return std::sqrt(error / size);
}

// Memory has a guard behind it.
struct Guarded {
    explicit Guarded(size_t bytes) : memory(bytes + 64, guard) {}
    ~Guarded() {
        CHECK(std::all_of(memory.end() - 64, memory.end(), [](char c) { return c == guard; }));
    }
    static constexpr char guard = 0x5a;
    std::vector<char> memory;
};

std::vector<float> computed(const PanelKernel& kernel, const Problem& p) {
    const Sizes& s = p.sizes;
    PackedRows rows{p.weight.data(),
                    ggml_row_size(p.type, s.columns),
                    ggml_blck_size(p.type),
                    ggml_type_size(p.type),
                    s.columns,
                    s.outputs,
                    to_float(kernel.isa, p.type)};
    Guarded activations(kernel.activation_bytes(s.columns, s.rows));
    // In two parts, as two threads do it.
    int64_t half = s.rows / 2;
    for (auto [first, end] : {std::pair{int64_t{0}, half}, std::pair{half, s.rows}}) {
        kernel.round(p.x.data(), s.width, s.columns, s.rows, first, end, activations.memory.data());
    }
    Guarded y(static_cast<size_t>(s.rows * s.outputs) * sizeof(float));
    Guarded panel(kernel.panel_bytes(s.columns));
    std::vector<float> result(static_cast<size_t>(s.rows * s.outputs));
    for (int64_t first = 0; first < s.outputs; first += PANEL_ROWS) {
        kernel.unpack(rows, first, panel.memory.data());
        kernel.multiply(panel.memory.data(), activations.memory.data(), s.columns, s.rows,
                        p.bias.data(), reinterpret_cast<float*>(y.memory.data()), s.outputs, first);
    }
    std::memcpy(result.data(), y.memory.data(), result.size() * sizeof(float));
    return result;
}

std::vector<float> by_ggml(const Problem& p) {
    const Sizes& s = p.sizes;
    std::unique_ptr<ggml_context, void (*)(ggml_context*)> ggml(
        ggml_init({size_t{64} << 20, nullptr, false}), ggml_free);
    ggml_tensor* weight = ggml_new_tensor_2d(ggml.get(), p.type, s.columns, s.outputs);
    ggml_tensor* x = ggml_new_tensor_2d(ggml.get(), GGML_TYPE_F32, s.columns, s.rows);
    std::memcpy(weight->data, p.weight.data(), p.weight.size());
    std::memset(x->data, 0, ggml_nbytes(x));
    for (int64_t n = 0; n < s.rows; n++) {
        std::memcpy(static_cast<float*>(x->data) + n * s.columns, &p.x[n * s.width],
                    static_cast<size_t>(s.width) * sizeof(float));
    }
    ggml_tensor* y = ggml_mul_mat(ggml.get(), weight, x);
    ggml_cgraph* graph = ggml_new_graph(ggml.get());
    ggml_build_forward_expand(graph, y);
    ggml_graph_compute_with_ctx(ggml.get(), graph, 1);
    std::vector<float> result(static_cast<size_t>(s.rows * s.outputs));
    for (size_t k = 0; k < result.size(); k++) {
        result[k] = static_cast<float*>(y->data)[k] + p.bias[k % p.bias.size()];
    }
    return result;
}

void check_conversion(Isa isa, const Problem& p) {
    int64_t count = p.sizes.columns * p.sizes.outputs;
    std::vector<float> ours(static_cast<size_t>(count)), ggmls(ours);
    to_float(isa, p.type)(p.weight.data(), ours.data(), count);
    ggml_get_type_traits(p.type)->to_float(p.weight.data(), ggmls.data(), count);
    CHECK(ours == ggmls);
}

const std::vector<ggml_type> types = {
    GGML_TYPE_IQ1_S,   GGML_TYPE_IQ1_M, GGML_TYPE_IQ2_XXS, GGML_TYPE_IQ2_XS, GGML_TYPE_IQ2_S,
    GGML_TYPE_IQ3_XXS, GGML_TYPE_IQ3_S, GGML_TYPE_IQ4_XS,  GGML_TYPE_IQ4_NL, GGML_TYPE_Q2_K,
    GGML_TYPE_Q3_K,    GGML_TYPE_Q4_0,  GGML_TYPE_Q4_K,    GGML_TYPE_Q5_0,   GGML_TYPE_Q5_K,
    GGML_TYPE_Q6_K,    GGML_TYPE_Q8_0,  GGML_TYPE_BF16,    GGML_TYPE_F16,
};

struct Tried {
    const PanelKernel* kernel;
    double limit; // of its error
};

// The kernels of all instruction sets that this processor has, each once.
std::vector<Tried> kernels() {
    std::vector<Tried> found;
    auto add = [&](const PanelKernel* kernel, double limit) {
        auto same = [&](const Tried& other) { return other.kernel == kernel; };
        if (kernel != nullptr && std::none_of(found.begin(), found.end(), same)) {
            found.push_back({kernel, limit});
        }
    };
    for (Isa isa : present_isas()) {
        // Without VNNI a weight has 7 bits.
        const PanelKernel* int8 = int8_kernel(isa);
        add(int8, int8 != nullptr && int8->isa == Isa::avx2 ? 2.2e-2 : 1.4e-2);
        add(bfloat16_kernel(isa), 4e-3);
    }
    return found;
}

void check(const Problem& p, const std::vector<Tried>& tried) {
    const Sizes& s = p.sizes;
    double ggmls = error_of(by_ggml(p), p);
    for (const auto& [kernel, limit] : tried) {
        check_conversion(kernel->isa, p);
        double error = error_of(computed(*kernel, p), p);
        std::printf("%-8s %-12s %-8s %4ld x %4ld, %2ld rows: error %.1e, ggml's %.1e\n",
                    kernel->name, isa_name(kernel->isa), ggml_type_name(p.type),
                    static_cast<long>(s.outputs), static_cast<long>(s.columns),
                    static_cast<long>(s.rows), error, ggmls);
        CHECK(error < limit);
    }
}

} // namespace

int main() {
    ggml_cpu_init();
    unsetenv("ACTQUANT_ISA");
    std::vector<Tried> tried = kernels();
    for (ggml_type type : types) {
        for (const Sizes& s : {Sizes{256, 256, 32, 13}, Sizes{768, 720, 50, 31},
                               Sizes{512, 257, 71, 1}, Sizes{1024, 1024, 65, 12}}) {
            check(problem(type, s), tried);
        }
    }
    // Blocks of 32: a row's last 256 columns need not be whole.
    Problem p = problem(GGML_TYPE_Q8_0, {288, 288, 33, 5});
    check(p, tried);
    // What is no number must not become one.
    for (float strange : {std::nanf(""), INFINITY}) {
        Problem damaged = p;
        damaged.x[static_cast<size_t>(damaged.sizes.width)] = strange;
        for (const Tried& one : tried) {
            std::vector<float> y = computed(*one.kernel, damaged);
            size_t columns = p.bias.size();
            CHECK(std::isfinite(y[0]) && !std::isfinite(y[columns]) &&
                  std::isfinite(y[2 * columns]));
        }
    }
    p.x.assign(p.x.size(), 0.0f);
    for (const Tried& one : tried) {
        std::vector<float> zero = computed(*one.kernel, p);
        CHECK(std::memcmp(zero.data(), p.bias.data(), p.bias.size() * sizeof(float)) == 0);
    }
}
