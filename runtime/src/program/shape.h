#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace actquant {

// Row-major, as in PyTorch: the last dimension is the contiguous one.
using Shape = std::vector<int64_t>;
// ggml's order: the first dimension is the contiguous one, always four of them.
using GgmlShape = std::array<int64_t, 4>;

enum class DType { f32, i64, b8 };

const char* dtype_name(DType dtype);
bool parse_dtype(const std::string& text, DType& dtype);
size_t dtype_size(DType dtype);

// INT64_MAX where that is not enough; only what passes what_is_wrong may be computed with.
int64_t element_count(const Shape& shape);
// Why a shape from a file or a caller cannot be used: too many dimensions, one below 1, or more
// elements than `most`; empty for a good one.
std::string what_is_wrong(const Shape& shape, int64_t most);
Shape row_major_strides(const Shape& shape);
std::string to_string(const Shape& shape);
// Parses "[1,2,3]" or "[]"; false when the text is anything else.
bool parse_shape(const std::string& text, Shape& shape);
Shape without_unit_dimensions(const Shape& shape);
// `shape` with leading ones up to `rank` dimensions.
Shape aligned_right(const Shape& shape, size_t rank);
// NumPy broadcasting; false when the shapes do not fit.
bool broadcast_shapes(const Shape& a, const Shape& b, Shape& result);

// Which dimensions of a row-major shape become ggml's four: above rank 4 the leftmost unit
// dimensions are dropped.
class Layout {
  public:
    explicit Layout(const Shape& shape);

    bool fits() const { return kept.size() <= 4; }
    // Throws FileError where it does not fit.
    GgmlShape extents(const Shape& shape) const;
    // ggml's index of a row-major dimension, -1 if it was dropped.
    int axis(size_t dimension) const;

  private:
    std::vector<size_t> kept;
};

// Walks a row-major index space in order.
class IndexWalk {
  public:
    explicit IndexWalk(const Shape& shape) : extents(shape), index(shape.size(), 0) {}

    const Shape& at() const { return index; }
    void advance() {
        for (size_t k = extents.size(); k-- > 0;) {
            if (++index[k] < extents[k]) {
                return;
            }
            index[k] = 0;
        }
    }

  private:
    const Shape& extents;
    Shape index;
};

} // namespace actquant
