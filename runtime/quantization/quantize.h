#pragma once

#include <ggml.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace actquant {

struct TypeInfo {
    std::string name; // as in ggml's enum: "IQ2_XS"
    int64_t block_size = 0;
    size_t type_size_bytes = 0;
    double bits_per_weight = 0;
    bool needs_importance = false;
};

// Returns ggml's type of that name. Raises ArgumentError with the names if there is none.
ggml_type quantization_type(const std::string& name);

// The types a weight may have, from most to fewest bits.
std::vector<TypeInfo> quantization_types();

// Bytes of a row of `columns` weights, padded to whole blocks.
size_t quantized_row_bytes(const std::string& type, int64_t columns);

// Throws ArgumentError, naming the place, for a weight [rows, columns] that is not finite.
void check_finite(const float* weights, int64_t rows, int64_t columns);

// Calls `work` on so many threads (0: all) at once, though on no more than there are items; each
// takes items by `next++` until there are none.
void run_on_threads(int threads, int64_t items,
                    const std::function<void(std::atomic<int64_t>& next)>& work);

struct QuantizeRequest {
    const float* weights = nullptr;    // [rows, columns]
    const float* importance = nullptr; // [rows, columns], one per weight, positive; may be null
    int64_t rows = 0;
    int64_t columns = 0;
    int threads = 0; // 0: all
};

// Fills `result` [rows, quantized_row_bytes].
void quantize(const QuantizeRequest& request, const std::string& type, uint8_t* result);

// Fills `result` [rows, columns] from `data` [rows, quantized_row_bytes].
void dequantize(const uint8_t* data, int64_t rows, int64_t columns, const std::string& type,
                float* result);

} // namespace actquant
