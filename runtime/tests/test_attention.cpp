// Attention by every kernel that this processor can run, against float64.
#include "check.h"
#include "common/error.h"
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

using namespace actquant;

namespace {

struct Case {
    AttentionShape shape;
    bool masked;
};

struct Inputs {
    std::vector<float> q, k, v, mask;
};

Rows rows_of(const std::vector<float>& data, int64_t heads, int64_t rows, int64_t width) {
    size_t row = static_cast<size_t>(width) * sizeof(float);
    size_t head = static_cast<size_t>(rows) * row;
    return {data.data(), static_cast<size_t>(heads) * head, head, row};
}

// Every third element of the mask is forbidden, and all of the first row.
Inputs inputs_for(const Case& wanted, std::mt19937& random) {
    const AttentionShape& s = wanted.shape;
    std::normal_distribution<float> normal;
    auto fill = [&](int64_t count) {
        std::vector<float> values(static_cast<size_t>(count));
        std::generate(values.begin(), values.end(), [&] { return normal(random); });
        return values;
    };
    Inputs inputs{fill(s.batch * s.heads * s.queries * s.width),
                  fill(s.batch * s.kv_heads * s.keys * s.width),
                  fill(s.batch * s.kv_heads * s.keys * s.value_width),
                  {}};
    if (wanted.masked) {
        inputs.mask.resize(static_cast<size_t>(s.queries * s.keys));
        for (int64_t k = 0; k < s.queries * s.keys; k++) {
            inputs.mask[static_cast<size_t>(k)] = k < s.keys || k % 3 == 0 ? -1e30f : 0.0f;
        }
    }
    return inputs;
}

std::vector<double> expected(const AttentionShape& s, const Inputs& inputs) {
    std::vector<double> result;
    for (int64_t b = 0; b < s.batch; b++) {
        for (int64_t i = 0; i < s.queries; i++) {
            for (int64_t h = 0; h < s.heads; h++) {
                int64_t group = b * s.kv_heads + h / (s.heads / s.kv_heads);
                const float* q = &inputs.q[((b * s.heads + h) * s.queries + i) * s.width];
                std::vector<double> weights;
                for (int64_t j = 0; j < s.keys; j++) {
                    const float* k = &inputs.k[(group * s.keys + j) * s.width];
                    double score = 0;
                    for (int64_t d = 0; d < s.width; d++) {
                        score += static_cast<double>(q[d]) * k[d];
                    }
                    float mask = inputs.mask.empty() ? 0.0f : inputs.mask[i * s.keys + j];
                    // What f32 makes of it: a row that is forbidden whole is uniform.
                    weights.push_back(mask < 0 ? mask : score * s.scale);
                }
                double top = *std::max_element(weights.begin(), weights.end());
                double sum = 0;
                for (double& weight : weights) {
                    weight = std::exp(weight - top);
                    sum += weight;
                }
                for (int64_t d = 0; d < s.value_width; d++) {
                    double total = 0;
                    for (int64_t j = 0; j < s.keys; j++) {
                        total += weights[j] * inputs.v[(group * s.keys + j) * s.value_width + d];
                    }
                    result.push_back(total / sum);
                }
            }
        }
    }
    return result;
}

// Threads one after the other: what they write may not depend on their number. Memory has a guard
// behind it.
std::vector<float> computed(const AttentionKernel& kernel, const AttentionShape& s,
                            const Inputs& inputs, int threads) {
    constexpr char guard = 0x5a;
    std::vector<char> packed(kernel.packed_bytes(s) + 64, guard);
    std::vector<char> scratch(kernel.scratch_bytes(s) + 64, guard);
    std::vector<float> result(static_cast<size_t>(s.batch * s.queries * s.heads * s.value_width));
    AttentionOperands operands;
    operands.q = rows_of(inputs.q, s.heads, s.queries, s.width);
    operands.k = rows_of(inputs.k, s.kv_heads, s.keys, s.width);
    operands.v = rows_of(inputs.v, s.kv_heads, s.keys, s.value_width);
    if (!inputs.mask.empty()) {
        operands.mask = {inputs.mask.data(), 0, 0, static_cast<size_t>(s.keys) * sizeof(float)};
    }
    operands.packed = packed.data();
    operands.result = result.data();
    for (int thread = 0; thread < threads; thread++) {
        kernel.pack(s, operands, thread, threads);
    }
    for (int thread = 0; thread < threads; thread++) {
        kernel.attend(s, operands, scratch.data(), thread, threads);
    }
    auto untouched = [](char byte) { return byte == guard; };
    CHECK(std::all_of(packed.end() - 64, packed.end(), untouched));
    CHECK(std::all_of(scratch.end() - 64, scratch.end(), untouched));
    return result;
}

double relative_error(const std::vector<float>& found, const std::vector<double>& wanted) {
    double error = 0, size = 0;
    for (size_t k = 0; k < wanted.size(); k++) {
        error += std::pow(found[k] - wanted[k], 2);
        size += std::pow(wanted[k], 2);
    }
    return std::sqrt(error / size);
}

void check(const AttentionKernel& kernel, const Case& wanted, double limit) {
    std::mt19937 random(7);
    Inputs inputs = inputs_for(wanted, random);
    std::vector<float> alone = computed(kernel, wanted.shape, inputs, 1);
    double error = relative_error(alone, expected(wanted.shape, inputs));
    if (!(error < limit)) {
        const AttentionShape& s = wanted.shape;
        std::fprintf(stderr, "%s: error %g, %ld queries, %ld keys, widths %ld and %ld\n",
                     kernel.name, error, static_cast<long>(s.queries), static_cast<long>(s.keys),
                     static_cast<long>(s.width), static_cast<long>(s.value_width));
    }
    CHECK(error < limit);
    for (int threads : {2, 5}) {
        std::vector<float> shared = computed(kernel, wanted.shape, inputs, threads);
        CHECK(std::memcmp(shared.data(), alone.data(), alone.size() * sizeof(float)) == 0);
    }
}

const std::vector<Case> cases = {
    {{1, 1, 1, 1, 1, 1, 1, 1.0f}, false},         {{1, 1, 1, 13, 33, 7, 5, 0.4f}, true},
    {{2, 4, 2, 50, 291, 64, 64, 0.125f}, true},   {{2, 6, 6, 25, 64, 72, 72, 0.118f}, false},
    {{1, 8, 1, 11, 97, 256, 256, 0.0625f}, true}, {{3, 3, 3, 12, 300, 80, 48, 0.11f}, false},
    {{1, 2, 1, 24, 31, 33, 17, 0.2f}, true},      {{1, 1, 1, 5, 700, 16, 100, 5.0f}, false},
};

// A NaN among the keys must reach the results: a robot holds where it sees one.
void check_strange_numbers() {
    for (Isa isa : present_isas()) {
        for (bool rounded : {false, true}) {
            std::mt19937 random(7);
            Inputs inputs = inputs_for(cases[5], random);
            inputs.k[100] = std::nanf("");
            std::vector<float> result =
                computed(attention_kernel(isa, rounded), cases[5].shape, inputs, 1);
            CHECK(std::isnan(result[0]) && std::isfinite(result.back()));
        }
    }
}

} // namespace

int main() {
    unsetenv("ACTQUANT_ISA");
    for (Isa isa : present_isas()) {
        for (bool rounded : {false, true}) {
            const AttentionKernel& kernel = attention_kernel(isa, rounded);
            bool halves = rounded && isa == Isa::avx512_bf16;
            for (const Case& wanted : cases) {
                check(kernel, wanted, halves ? 1e-2 : 3e-6);
            }
        }
    }
    check_strange_numbers();
    setenv("ACTQUANT_ISA", "baseline", 1);
    CHECK(usable_isa() == Isa::baseline);
    setenv("ACTQUANT_ISA", "avx1024", 1);
    CHECK(contains(message_of<ArgumentError>(usable_isa), "'avx1024'; there are: ggml, baseline"));
}
