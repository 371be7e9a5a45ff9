#include "quantization/quantize.h"

#include "common/error.h"

#include <ggml.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>

namespace actquant {
namespace {

struct NamedType {
    const char* name;
    ggml_type type;
};

constexpr NamedType named_types[] = {
    {"F32", GGML_TYPE_F32},         {"F16", GGML_TYPE_F16},         {"BF16", GGML_TYPE_BF16},
    {"Q8_0", GGML_TYPE_Q8_0},       {"Q6_K", GGML_TYPE_Q6_K},       {"Q5_1", GGML_TYPE_Q5_1},
    {"Q5_K", GGML_TYPE_Q5_K},       {"Q5_0", GGML_TYPE_Q5_0},       {"Q4_1", GGML_TYPE_Q4_1},
    {"Q4_K", GGML_TYPE_Q4_K},       {"Q4_0", GGML_TYPE_Q4_0},       {"IQ4_NL", GGML_TYPE_IQ4_NL},
    {"IQ4_XS", GGML_TYPE_IQ4_XS},   {"Q3_K", GGML_TYPE_Q3_K},       {"IQ3_S", GGML_TYPE_IQ3_S},
    {"IQ3_XXS", GGML_TYPE_IQ3_XXS}, {"Q2_K", GGML_TYPE_Q2_K},       {"IQ2_S", GGML_TYPE_IQ2_S},
    {"IQ2_XS", GGML_TYPE_IQ2_XS},   {"IQ2_XXS", GGML_TYPE_IQ2_XXS}, {"IQ1_M", GGML_TYPE_IQ1_M},
    {"IQ1_S", GGML_TYPE_IQ1_S},
};

int64_t padded_columns(ggml_type type, int64_t columns) {
    int64_t block = ggml_blck_size(type);
    return (columns + block - 1) / block * block;
}

std::string place(int64_t k, int64_t columns) {
    return "[" + std::to_string(k / columns) + ", " + std::to_string(k % columns) + "]";
}

void check_importance(const QuantizeRequest& request) {
    for (int64_t k = 0; request.importance != nullptr && k < request.rows * request.columns; k++) {
        if (!(request.importance[k] > 0 && std::isfinite(request.importance[k]))) {
            throw ArgumentError("importance" + place(k, request.columns) +
                                " is not a positive number");
        }
    }
}

// ggml's searches only compare sums of importances, so a row may be scaled freely; at mean 1 their
// products stay within f32. Padding counts next to nothing.
void copy_importance(const float* source, int64_t columns, std::vector<float>& target) {
    double sum = 0;
    for (int64_t k = 0; k < columns; k++) {
        sum += source[k];
    }
    constexpr float padding = 1e-8f;
    double scale = static_cast<double>(columns) / sum;
    std::fill(target.begin(), target.end(), padding);
    for (int64_t k = 0; k < columns; k++) {
        target[k] = static_cast<float>(source[k] * scale);
    }
}

void quantize_row(const QuantizeRequest& request, ggml_type type, int64_t row,
                  std::vector<float>& weights, std::vector<float>& importance, uint8_t* target) {
    int64_t padded = static_cast<int64_t>(weights.size());
    const float* source = request.weights + row * request.columns;
    std::copy_n(source, request.columns, weights.begin());
    const float* row_importance = nullptr;
    if (request.importance != nullptr) {
        copy_importance(request.importance + row * request.columns, request.columns, importance);
        row_importance = importance.data();
    }
    // One row a call: ggml takes a single importance row for all the rows of a call.
    ggml_quantize_chunk(type, weights.data(), target, 0, 1, padded, row_importance);
}

void quantize_rows(const QuantizeRequest& request, ggml_type type, size_t row_bytes,
                   std::atomic<int64_t>& next_row, uint8_t* result) {
    int64_t padded = padded_columns(type, request.columns);
    std::vector<float> weights(padded, 0.0f);
    std::vector<float> importance(padded, 0.0f);
    for (int64_t row = next_row++; row < request.rows; row = next_row++) {
        quantize_row(request, type, row, weights, importance, result + row * row_bytes);
    }
}

} // namespace

void check_finite(const float* weights, int64_t rows, int64_t columns) {
    for (int64_t k = 0; k < rows * columns; k++) {
        if (!std::isfinite(weights[k])) {
            throw ArgumentError("weights" + place(k, columns) + " is not finite");
        }
    }
}

void run_on_threads(int threads, int64_t items,
                    const std::function<void(std::atomic<int64_t>& next)>& work) {
    int64_t wanted =
        threads > 0 ? threads : static_cast<int64_t>(std::thread::hardware_concurrency());
    std::atomic<int64_t> next = 0;
    std::vector<std::jthread> pool;
    for (int64_t k = 1; k < std::min(wanted, items); k++) {
        pool.emplace_back([&] { work(next); });
    }
    work(next);
}

ggml_type quantization_type(const std::string& name) {
    std::string known;
    for (const NamedType& candidate : named_types) {
        if (name == candidate.name) {
            return candidate.type;
        }
        known += std::string(" ") + candidate.name;
    }
    throw ArgumentError("there is no quantization type '" + name + "'; the types are" + known);
}

std::vector<TypeInfo> quantization_types() {
    std::vector<TypeInfo> types;
    for (const NamedType& named : named_types) {
        int64_t block = ggml_blck_size(named.type);
        size_t bytes = ggml_type_size(named.type);
        types.push_back({named.name, block, bytes,
                         8.0 * static_cast<double>(bytes) / static_cast<double>(block),
                         ggml_quantize_requires_imatrix(named.type)});
    }
    return types;
}

size_t quantized_row_bytes(const std::string& type, int64_t columns) {
    ggml_type found = quantization_type(type);
    return ggml_row_size(found, padded_columns(found, columns));
}

void quantize(const QuantizeRequest& request, const std::string& type_name, uint8_t* result) {
    ggml_type type = quantization_type(type_name);
    if (ggml_quantize_requires_imatrix(type) && request.importance == nullptr) {
        throw ArgumentError("the type " + type_name + " needs an importance for every weight");
    }
    check_finite(request.weights, request.rows, request.columns);
    check_importance(request);
    size_t row_bytes = quantized_row_bytes(type_name, request.columns);
    ggml_quantize_init(type);
    run_on_threads(request.threads, request.rows, [&](std::atomic<int64_t>& next_row) {
        quantize_rows(request, type, row_bytes, next_row, result);
    });
}

void dequantize(const uint8_t* data, int64_t rows, int64_t columns, const std::string& type_name,
                float* result) {
    ggml_type type = quantization_type(type_name);
    int64_t padded = padded_columns(type, columns);
    size_t row_bytes = ggml_row_size(type, padded);
    ggml_to_float_t to_float = ggml_get_type_traits(type)->to_float;
    std::vector<float> row_values(padded);
    for (int64_t row = 0; row < rows; row++) {
        const uint8_t* source = data + row * row_bytes;
        if (type == GGML_TYPE_F32) {
            std::memcpy(row_values.data(), source, row_bytes);
        } else {
            to_float(source, row_values.data(), padded);
        }
        std::copy_n(row_values.begin(), columns, result + row * columns);
    }
}

} // namespace actquant
