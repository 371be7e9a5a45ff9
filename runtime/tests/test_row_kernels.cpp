// Activations and normalisations by every kernel that this processor can run, against float64, in
// rows of any width.
#include "check.h"
#include "kernels/activations.h"
#include "kernels/norms.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

using namespace actquant;

namespace {

using Row = std::vector<float>;
using Wide = std::vector<double>;

Row normal_values(size_t count, float middle, float deviation) {
    static std::mt19937 random(1);
    std::normal_distribution<float> normal(middle, deviation);
    Row values(count);
    std::generate(values.begin(), values.end(), [&] { return normal(random); });
    return values;
}

// Relative to the largest of what is expected. The row has a guard behind it.
void check(const char* name, Isa isa, const Wide& expected,
           const std::function<void(float*)>& compute) {
    constexpr float guard = 12345.0f;
    Row result(expected.size() + 16, guard);
    compute(result.data());
    double size = 1e-6, error = 0;
    for (size_t k = 0; k < expected.size(); k++) {
        size = std::max(size, std::abs(expected[k]));
        error = std::max(error, std::abs(result[k] - expected[k]));
    }
    bool exact = error < 3e-6 * size;
    bool inside = std::all_of(result.end() - 16, result.end(), [](float x) { return x == guard; });
    if (!exact || !inside) {
        std::printf("%s by %s, width %zu: error %.1e of %.1e\n", name, isa_name(isa),
                    expected.size(), error, size);
    }
    CHECK(exact && inside);
}

double gelu_tanh(double x) {
    return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

Wide mapped(const Row& x, const std::function<double(double)>& function) {
    Wide result(x.size());
    std::transform(x.begin(), x.end(), result.begin(), function);
    return result;
}

Wide normalized(const Row& x, bool centred, const Row& scale, const Row& shift, double eps) {
    double count = static_cast<double>(x.size());
    double mean = centred ? std::accumulate(x.begin(), x.end(), 0.0) / count : 0;
    double square = 0;
    for (float value : x) {
        square += (value - mean) * (value - mean) / count;
    }
    Wide result;
    for (size_t k = 0; k < x.size(); k++) {
        double value = (x[k] - mean) / std::sqrt(square + eps);
        value *= scale.empty() ? 1 : scale[k];
        result.push_back(value + (shift.empty() ? 0 : shift[k]));
    }
    return result;
}

void check_activations(Isa isa, const Row& x, const Row& gate) {
    const ActivationKernels& kernels = activation_kernels(isa);
    int64_t width = static_cast<int64_t>(x.size());
    check("gelu", isa, mapped(x, gelu_tanh),
          [&](float* y) { kernels.gelu_tanh(x.data(), y, width); });
    Wide gated = mapped(x, gelu_tanh);
    std::transform(gated.begin(), gated.end(), gate.begin(), gated.begin(), std::multiplies<>());
    check("gated gelu", isa, gated,
          [&](float* y) { kernels.gelu_tanh_times(x.data(), gate.data(), y, width); });
    check("mish", isa, mapped(x, [](double v) { return v * std::tanh(std::log1p(std::exp(v))); }),
          [&](float* y) { kernels.mish(x.data(), y, width); });
    check("in place", isa, mapped(x, gelu_tanh), [&](float* y) {
        std::copy(x.begin(), x.end(), y);
        kernels.gelu_tanh(y, y, width);
    });
}

void check_norms(Isa isa, const Row& x, const Row& scale, const Row& shift) {
    const NormKernels& kernels = norm_kernels(isa);
    int64_t width = static_cast<int64_t>(x.size());
    constexpr float eps = 1e-5f;
    for (const Row& s : {scale, Row()}) {
        const float* factor = s.empty() ? nullptr : s.data();
        check("rms_norm", isa, normalized(x, false, s, {}, eps),
              [&](float* y) { kernels.rms_norm(x.data(), factor, eps, width, y); });
        for (const Row& b : {shift, Row()}) {
            const float* offset = b.empty() ? nullptr : b.data();
            check("layer_norm", isa, normalized(x, true, s, b, eps),
                  [&](float* y) { kernels.layer_norm(x.data(), factor, offset, eps, width, y); });
        }
    }
}

void check_strange_numbers(Isa isa) {
    Row x(37, 1.0f), y(37);
    x[5] = std::nanf("");
    activation_kernels(isa).gelu_tanh(x.data(), y.data(), 37);
    CHECK(std::isnan(y[5]) && std::isfinite(y[4]));
    norm_kernels(isa).layer_norm(x.data(), nullptr, nullptr, 1e-5f, 37, y.data());
    CHECK(std::isnan(y[0]) && std::isnan(y[36]));
    Row extreme = {-1e4f, 1e4f, -100.0f, 100.0f, 0.0f};
    activation_kernels(isa).gelu_tanh(extreme.data(), y.data(), 5);
    CHECK(std::abs(y[0]) < 1e-30f && y[1] == 1e4f && y[3] == 100.0f && y[4] == 0.0f);
}

} // namespace

int main() {
    for (Isa isa : present_isas()) {
        for (size_t width : {1, 3, 16, 63, 64, 100, 513, 4096}) {
            // Far from zero, as sums lose digits there.
            Row x = normal_values(width, 2.0f, 3.0f);
            Row scale = normal_values(width, 1.0f, 0.5f), shift = normal_values(width, 0.0f, 1.0f);
            check_activations(isa, x, scale);
            check_norms(isa, x, scale, shift);
        }
        check_strange_numbers(isa);
    }
}
