#include "quantization.h"

#include "common/error.h"
#include "quantization/feedback.h"
#include "quantization/quantize.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <memory>

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <typename Element> using Result = nb::ndarray<nb::numpy, Element, nb::ndim<2>>;

// Hands an array's memory to NumPy.
template <typename Element>
Result<Element> to_numpy(std::unique_ptr<Element[]> data, size_t rows, size_t columns) {
    Element* pointer = data.release();
    nb::capsule owner(pointer, [](void* p) noexcept { delete[] static_cast<Element*>(p); });
    return Result<Element>(pointer, {rows, columns}, owner);
}

// Encodes weights by `run(rows, columns, result)`, without Python's lock.
template <typename Encode>
Result<uint8_t> encode(const Matrix& weights, const std::string& type, Encode run) {
    size_t rows = weights.shape(0);
    size_t columns = weights.shape(1);
    if (rows == 0 || columns == 0) {
        throw actquant::ArgumentError("weights are empty");
    }
    size_t row_bytes = actquant::quantized_row_bytes(type, static_cast<int64_t>(columns));
    auto result = std::make_unique<uint8_t[]>(rows * row_bytes);
    {
        nb::gil_scoped_release release;
        run(static_cast<int64_t>(rows), static_cast<int64_t>(columns), result.get());
    }
    return to_numpy(std::move(result), rows, row_bytes);
}

Result<uint8_t> quantize(const Matrix& weights, const std::string& type,
                         const std::optional<Matrix>& importance, int threads) {
    if (importance &&
        (importance->shape(0) != weights.shape(0) || importance->shape(1) != weights.shape(1))) {
        throw actquant::ArgumentError("importance must have the shape of weights");
    }
    const float* values = importance ? importance->data() : nullptr;
    return encode(weights, type, [&](int64_t rows, int64_t columns, uint8_t* result) {
        actquant::quantize({weights.data(), values, rows, columns, threads}, type, result);
    });
}

Result<uint8_t> quantize_with_feedback(const Matrix& weights, const std::string& type,
                                       const Matrix& factor, int threads) {
    if (factor.shape(0) != weights.shape(1) || factor.shape(1) != weights.shape(1)) {
        throw actquant::ArgumentError("factor must be [columns, columns] of weights");
    }
    return encode(weights, type, [&](int64_t rows, int64_t columns, uint8_t* result) {
        actquant::quantize_with_feedback({weights.data(), factor.data(), rows, columns, threads},
                                         type, result);
    });
}

Result<float> dequantize(const Bytes& data, const std::string& type, int64_t columns) {
    size_t rows = data.shape(0);
    if (columns < 1 || data.shape(1) != actquant::quantized_row_bytes(type, columns)) {
        throw actquant::ArgumentError("rows of " + std::to_string(data.shape(1)) +
                                      " bytes do not hold " + std::to_string(columns) +
                                      " weights of type " + type);
    }
    auto result = std::make_unique<float[]>(rows * static_cast<size_t>(columns));
    {
        nb::gil_scoped_release release;
        actquant::dequantize(data.data(), static_cast<int64_t>(rows), columns, type, result.get());
    }
    return to_numpy(std::move(result), rows, static_cast<size_t>(columns));
}

nb::dict types() {
    nb::dict result;
    for (const actquant::TypeInfo& type : actquant::quantization_types()) {
        nb::dict entry;
        entry["block_size"] = type.block_size;
        entry["type_size"] = type.type_size_bytes;
        entry["bits_per_weight"] = type.bits_per_weight;
        entry["needs_importance"] = type.needs_importance;
        result[type.name.c_str()] = entry;
    }
    return result;
}

} // namespace

void bind_quantization(nb::module_& module) {
    module.def("quantize", quantize, "weights"_a, "type"_a, "importance"_a.none(), "threads"_a);
    module.def("quantize_with_feedback", quantize_with_feedback, "weights"_a, "type"_a, "factor"_a,
               "threads"_a);
    module.def("dequantize", dequantize, "data"_a, "type"_a, "n_cols"_a);
    module.def("types", types);
}
