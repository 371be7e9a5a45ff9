#include "program/shape.h"

#include "common/error.h"
#include "common/limits.h"

#include <algorithm>
#include <charconv>

namespace actquant {

const char* dtype_name(DType dtype) {
    switch (dtype) {
    case DType::f32:
        return "f32";
    case DType::i64:
        return "i64";
    case DType::b8:
        return "b8";
    }
    return "?";
}

bool parse_dtype(const std::string& text, DType& dtype) {
    for (DType candidate : {DType::f32, DType::i64, DType::b8}) {
        if (text == dtype_name(candidate)) {
            dtype = candidate;
            return true;
        }
    }
    return false;
}

size_t dtype_size(DType dtype) {
    switch (dtype) {
    case DType::f32:
        return 4;
    case DType::i64:
        return 8;
    case DType::b8:
        return 1;
    }
    return 0;
}

int64_t element_count(const Shape& shape) {
    int64_t count = 1;
    for (int64_t extent : shape) {
        if (__builtin_mul_overflow(count, extent, &count)) {
            return INT64_MAX;
        }
    }
    return count;
}

std::string what_is_wrong(const Shape& shape, int64_t most) {
    if (shape.size() > limits::rank) {
        return "a shape has " + std::to_string(shape.size()) + " dimensions, at most " +
               std::to_string(limits::rank) + " are allowed";
    }
    for (int64_t extent : shape) {
        if (extent < 1) {
            return "the shape " + to_string(shape) + " has an empty dimension";
        }
    }
    if (element_count(shape) > most) {
        return "the shape " + to_string(shape) + " has more than " + std::to_string(most) +
               " elements";
    }
    return "";
}

Shape row_major_strides(const Shape& shape) {
    Shape strides(shape.size());
    int64_t stride = 1;
    for (size_t k = shape.size(); k-- > 0;) {
        strides[k] = stride;
        stride *= shape[k];
    }
    return strides;
}

std::string to_string(const Shape& shape) {
    std::string text = "[";
    for (size_t k = 0; k < shape.size(); k++) {
        text += (k ? "," : "") + std::to_string(shape[k]);
    }
    return text + "]";
}

bool parse_shape(const std::string& text, Shape& shape) {
    shape.clear();
    if (text.size() < 2 || text.front() != '[' || text.back() != ']') {
        return false;
    }
    const char* cursor = text.data() + 1;
    const char* end = text.data() + text.size() - 1;
    while (cursor < end) {
        int64_t extent = 0;
        auto [next, error] = std::from_chars(cursor, end, extent);
        if (error != std::errc() || (next < end && *next != ',')) {
            return false;
        }
        shape.push_back(extent);
        cursor = next < end ? next + 1 : next;
    }
    return true;
}

Shape without_unit_dimensions(const Shape& shape) {
    Shape core;
    std::copy_if(shape.begin(), shape.end(), std::back_inserter(core),
                 [](int64_t extent) { return extent != 1; });
    return core;
}

Shape aligned_right(const Shape& shape, size_t rank) {
    Shape aligned(rank > shape.size() ? rank - shape.size() : 0, 1);
    aligned.insert(aligned.end(), shape.begin(), shape.end());
    return aligned;
}

bool broadcast_shapes(const Shape& a, const Shape& b, Shape& result) {
    size_t rank = std::max(a.size(), b.size());
    Shape left = aligned_right(a, rank);
    Shape right = aligned_right(b, rank);
    result.resize(rank);
    for (size_t k = 0; k < rank; k++) {
        if (left[k] != right[k] && left[k] != 1 && right[k] != 1) {
            return false;
        }
        result[k] = left[k] == 1 ? right[k] : left[k];
    }
    return true;
}

Layout::Layout(const Shape& shape) {
    size_t surplus = shape.size() > 4 ? shape.size() - 4 : 0;
    for (size_t k = 0; k < shape.size(); k++) {
        if (surplus > 0 && shape[k] == 1) {
            surplus--;
        } else {
            kept.push_back(k);
        }
    }
}

GgmlShape Layout::extents(const Shape& shape) const {
    if (!fits()) {
        throw FileError("the shape " + to_string(shape) +
                        " has a rank above 4 after unit dimensions are dropped");
    }
    GgmlShape extents = {1, 1, 1, 1};
    for (size_t k = 0; k < kept.size(); k++) {
        extents[kept.size() - 1 - k] = shape[kept[k]];
    }
    return extents;
}

int Layout::axis(size_t dimension) const {
    for (size_t k = 0; k < kept.size(); k++) {
        if (kept[k] == dimension) {
            return static_cast<int>(kept.size() - 1 - k);
        }
    }
    return -1;
}

} // namespace actquant
