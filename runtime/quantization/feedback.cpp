#include "quantization/feedback.h"

#include "common/error.h"
#include "quantization/blocks.h"
#include "quantization/quantize.h"

#include <ggml.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

// The loops below are written for the compiler to vectorize; it makes them for each kind of CPU.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define ACTQUANT_EVERY_CPU                                                                         \
    __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ACTQUANT_EVERY_CPU
#endif

namespace actquant {
namespace {

constexpr int group_size = 8;
constexpr int rows_per_tile = 32; // which the factor is read for once
constexpr int rows_at_once = 8;
constexpr int part_size = 32; // every block is a multiple of it
constexpr float importance_floor = 1e-3F;

// target -= factor * source, [count].
ACTQUANT_EVERY_CPU
void subtract(float* target, const float* source, float factor, int64_t count) {
    for (int64_t k = 0; k < count; k++) {
        target[k] -= factor * source[k];
    }
}

// What the rows of a tile make up for at once: targets [rows_per_tile, count] -= errors
// [rows_per_tile, terms] * sources [terms, count], the terms of each weight in their order.
struct Products {
    float* targets;
    int64_t target_stride;
    const float* errors;
    int64_t error_stride;
    const float* sources;
    int64_t source_stride;
    int64_t terms;
    int64_t count;
};

// Rows from `first` on, columns from `column` on, one row after the other.
ACTQUANT_EVERY_CPU
void subtract_rest(const Products& p, int64_t first, int64_t column) {
    for (int64_t r = first; r < first + rows_at_once; r++) {
        float* target = p.targets + r * p.target_stride;
        for (int64_t k = 0; k < p.terms; k++) {
            float error = p.errors[r * p.error_stride + k];
            const float* source = p.sources + k * p.source_stride;
            for (int64_t c = column; c < p.count; c++) {
                target[c] -= error * source[c];
            }
        }
    }
}

#if defined(__GNUC__)
// A vector of each of eight rows stays in registers while all terms pass.
ACTQUANT_EVERY_CPU
void subtract_from_rows(const Products& p, int64_t first) {
    typedef float Vector __attribute__((vector_size(32), aligned(4), may_alias));
    constexpr int64_t width = 8; // with more, eight sums do not fit into the registers of AVX2
    static_assert(rows_at_once == 8, "one variable a row");
    int64_t column = 0;
    for (; column + width <= p.count; column += width) {
        float* target = p.targets + first * p.target_stride + column;
        const float* source = p.sources + column;
        auto at = [&](int64_t row) -> Vector& {
            return *reinterpret_cast<Vector*>(target + row * p.target_stride);
        };
        Vector a = at(0), b = at(1), c = at(2), d = at(3), e = at(4), f = at(5), g = at(6),
               h = at(7);
        for (int64_t k = 0; k < p.terms; k++) {
            const Vector v = *reinterpret_cast<const Vector*>(source + k * p.source_stride);
            const float* error = p.errors + first * p.error_stride + k;
            a -= error[0] * v;
            b -= error[p.error_stride] * v;
            c -= error[2 * p.error_stride] * v;
            d -= error[3 * p.error_stride] * v;
            e -= error[4 * p.error_stride] * v;
            f -= error[5 * p.error_stride] * v;
            g -= error[6 * p.error_stride] * v;
            h -= error[7 * p.error_stride] * v;
        }
        at(0) = a, at(1) = b, at(2) = c, at(3) = d, at(4) = e, at(5) = f, at(6) = g, at(7) = h;
    }
    subtract_rest(p, first, column);
}
#else
void subtract_from_rows(const Products& p, int64_t first) {
    subtract_rest(p, first, 0);
}
#endif

void subtract_products(const Products& p) {
    for (int64_t first = 0; first < rows_per_tile; first += rows_at_once) {
        subtract_from_rows(p, first);
    }
}

// Fills errors [part_size] of weights that become `values`, each divided by the factor's diagonal;
// the weights after each make up for it. row: of the factor, those after it `stride` apart.
ACTQUANT_EVERY_CPU
void keep_values(float* weights, const float* values, const float* row, int64_t stride,
                 float* errors) {
    for (int k = 0; k < part_size; k++, row += stride) {
        float error = (weights[k] - values[k]) / row[k];
        errors[k] = error;
        for (int j = k + 1; j < part_size; j++) {
            weights[j] -= error * row[j];
        }
    }
}

// Fills costs [entries] with the weighted squared distance of each grid entry from `wanted`
// [width], without what all entries share. Sums of some entries stay in registers.
ACTQUANT_EVERY_CPU
void grid_costs(const Grid& grid, const float* wanted, const float* weights, float scale,
                float* costs) {
    constexpr int at_once = Grid::entries_at_once;
    float square[group_size];
    float linear[group_size];
    for (int k = 0; k < grid.width; k++) {
        square[k] = weights[k] * scale * scale;
        linear[k] = -2 * weights[k] * scale * wanted[k];
    }
    for (int first = 0; first < grid.entries; first += at_once) {
        float sums[at_once] = {};
        for (int k = 0; k < grid.width; k++) {
            const float* values = grid.columns + static_cast<int64_t>(k) * grid.entries + first;
            for (int n = 0; n < at_once; n++) {
                sums[n] += values[n] * (square[k] * values[n] + linear[k]);
            }
        }
        std::copy_n(sums, at_once, costs + first);
    }
}

// The first place of the least cost; `count` is a multiple of entries_at_once. Compilers vectorize
// minima of many lanes, but not one of a whole array.
ACTQUANT_EVERY_CPU
int place_of_least(const float* costs, int count) {
    constexpr int lanes = Grid::entries_at_once;
    float lane[lanes];
    std::copy_n(costs, lanes, lane);
    for (int first = lanes; first < count; first += lanes) {
        for (int n = 0; n < lanes; n++) {
            lane[n] = costs[first + n] < lane[n] ? costs[first + n] : lane[n];
        }
    }
    float least = *std::min_element(lane, lane + lanes);
    for (int first = 0; first < count; first += lanes) {
        int found = 0;
        for (int n = 0; n < lanes; n++) {
            found |= static_cast<int>(costs[first + n] == least);
        }
        if (found != 0) {
            return static_cast<int>(std::find(costs + first, costs + count, least) - costs);
        }
    }
    return 0; // costs of finite weights are finite
}

// The factor padded to whole blocks, and what of it the choice of scales and grid entries needs.
struct Factor {
    int64_t columns = 0;         // padded
    std::vector<float> values;   // [columns, columns]
    std::vector<float> of_block; // [columns]: diagonal of (U_b' U_b)^-1 of each block
    std::vector<float> of_group; // [columns]: the same for each group of 8

    const float* row(int64_t k) const { return values.data() + k * columns; }
};

// Fills `result` [count] with the diagonal of (U' U)^-1, U the part of the factor that begins at
// `start`: how much an error of each weight costs when those after it in the part make up for it.
ACTQUANT_EVERY_CPU
void error_weights(const Factor& factor, int64_t start, int64_t count, float* result) {
    std::vector<double> left(count); // of a row of the identity, what U^-1 does not yet account for
    for (int64_t i = 0; i < count; i++) {
        std::fill(left.begin(), left.end(), 0.0);
        left[i] = 1;
        double energy = 0;
        for (int64_t k = i; k < count; k++) {
            const float* row = factor.row(start + k) + start;
            double inverse = left[k] / row[k];
            energy += inverse * inverse;
            for (int64_t j = k + 1; j < count; j++) {
                left[j] -= inverse * row[j];
            }
        }
        result[i] = static_cast<float>(energy);
    }
}

Factor make_factor(const FeedbackRequest& request, int64_t padded, int64_t block) {
    Factor factor{padded, std::vector<float>(padded * padded, 0.0F), std::vector<float>(padded),
                  std::vector<float>(padded)};
    float largest = 0;
    for (int64_t k = 0; k < request.columns; k++) {
        const float* source = request.factor + k * request.columns;
        if (!(source[k] > 0) || !std::isfinite(source[k])) {
            throw ArgumentError("factor[" + std::to_string(k) + ", " + std::to_string(k) +
                                "] is not a positive number");
        }
        std::copy(source + k, source + request.columns, factor.values.begin() + k * padded + k);
        largest = std::max(largest, source[k]);
    }
    // An error of padding costs next to nothing, and nothing makes up for it.
    for (int64_t k = request.columns; k < padded; k++) {
        factor.values[k * padded + k] = 1e4F * largest;
    }
    for (int64_t start = 0; start < padded; start += block) {
        error_weights(factor, start, block, factor.of_block.data() + start);
    }
    for (int64_t start = 0; start < padded; start += group_size) {
        error_weights(factor, start, group_size, factor.of_group.data() + start);
    }
    return factor;
}

// Encodes rows in tiles, so that each row of the factor is read once for all of a tile.
class Encoder {
  public:
    Encoder(const FeedbackRequest& request, ggml_type type, const BlockFormat& format,
            const Factor& factor, uint8_t* result)
        : request_(request), type_(type), format_(format), factor_(factor), result_(result),
          weights_(rows_per_tile * factor.columns), errors_(rows_per_tile * format.size),
          importance_(format.size), scales_(rows_per_tile * format.size),
          offsets_(rows_per_tile * format.size), kept_(rows_per_tile * format.size),
          costs_(format.grid != nullptr ? format.grid->entries : 0) {}

    void encode_tile(int64_t first_row) {
        int64_t rows = std::min<int64_t>(rows_per_tile, request_.rows - first_row);
        int64_t columns = factor_.columns;
        int64_t row_bytes = columns / format_.size * format_.bytes;
        std::fill(weights_.begin(), weights_.end(), 0.0F);
        for (int64_t r = 0; r < rows; r++) {
            std::copy_n(request_.weights + (first_row + r) * request_.columns, request_.columns,
                        weights_.begin() + r * columns);
        }
        for (int64_t start = 0; start < columns; start += format_.size) {
            uint8_t* block = result_ + first_row * row_bytes + start / format_.size * format_.bytes;
            for (int64_t r = 0; r < rows; r++) {
                begin_block(r, start, block + r * row_bytes);
            }
            int64_t end = start + format_.size;
            for (int64_t part = start; part < end; part += part_size) {
                for (int64_t r = 0; r < rows; r++) {
                    encode_part(r, start, part - start, block + r * row_bytes);
                }
                spread(start, part, part + part_size, end);
            }
            spread(start, start, end, columns);
        }
    }

  private:
    float* weights_of(int64_t row, int64_t start) {
        return weights_.data() + row * factor_.columns + start;
    }

    // Chooses the scales of a row's block that begins at `start`, and all levels that ggml keeps.
    void begin_block(int64_t row, int64_t start, uint8_t* block) {
        choose_scales(weights_of(row, start), start, block);
        if (format_.read_scales != nullptr) {
            format_.read_scales(block, scales_.data() + row * format_.size,
                                offsets_.data() + row * format_.size);
        } else {
            ggml_get_type_traits(type_)->to_float(block, kept_.data() + row * format_.size,
                                                  format_.size);
        }
    }

    // Encodes `part_size` weights from `first` on of a row's block.
    void encode_part(int64_t row, int64_t start, int64_t first, uint8_t* block) {
        float* weights = weights_of(row, start);
        float* errors = errors_.data() + row * format_.size;
        int end = static_cast<int>(first) + part_size;
        if (format_.read_scales == nullptr) {
            keep_values(weights + first, kept_.data() + row * format_.size + first,
                        factor_.row(start + first) + start + first, factor_.columns,
                        errors + first);
            return;
        }
        scale_ = scales_.data() + row * format_.size;
        offset_ = offsets_.data() + row * format_.size;
        for (int k = static_cast<int>(first); k < end;) {
            if (format_.grid != nullptr) {
                choose_group(weights, start, k, block, errors, end);
                k += group_size;
                continue;
            }
            float value = choose_level(weights[k], k, block);
            make_up(weights, start, k, value, errors, end);
            k++;
        }
    }

    // Lets ggml encode the block; it multiplies importances by sqrt(sigma^2 + x^2), which the
    // Hessian knows nothing of.
    void choose_scales(const float* weights, int64_t start, uint8_t* block) {
        int size = format_.size;
        double square = 0;
        for (int k = 0; k < size; k++) {
            square += static_cast<double>(weights[k]) * weights[k];
        }
        auto variance = static_cast<float>(square / size);
        double sum = 0;
        for (int k = 0; k < size; k++) {
            importance_[k] = factor_.of_block[start + k] /
                             std::sqrt(variance + weights[k] * weights[k] + 1e-20F);
            sum += importance_[k];
        }
        auto mean = static_cast<float>(sum / size);
        for (int k = 0; k < size; k++) {
            importance_[k] = std::max(importance_[k] / mean, importance_floor);
        }
        ggml_quantize_chunk(type_, weights, block, 0, 1, size, importance_.data());
    }

    float choose_level(float wanted, int position, uint8_t* block) {
        float scale = scale_[position];
        float offset = offset_[position];
        int best = format_.has_even_levels ? nearest_even_level(wanted, scale, offset)
                                           : nearest_level(wanted, scale, offset);
        format_.write_level(block, position, best);
        return scale * format_.levels[best] + offset;
    }

    int nearest_level(float wanted, float scale, float offset) const {
        int best = 0;
        float least = INFINITY;
        for (int n = 0; n < format_.level_count; n++) {
            float distance = std::fabs(scale * format_.levels[n] + offset - wanted);
            if (distance < least) {
                least = distance;
                best = n;
            }
        }
        return best;
    }

    // The same of levels that are 1 apart.
    int nearest_even_level(float wanted, float scale, float offset) const {
        if (scale == 0) {
            return 0;
        }
        float place = (wanted - offset) / scale - format_.levels[0];
        float highest = static_cast<float>(format_.level_count - 1);
        return static_cast<int>(std::ceil(std::clamp(place, 0.0F, highest) - 0.5F));
    }

    // Chooses the grid entries of 8 weights; those up to `end` make up for their errors.
    void choose_group(float* weights, int64_t start, int position, uint8_t* block, float* errors,
                      int end) {
        const Grid& grid = *format_.grid;
        const float* cost = factor_.of_group.data() + start + position;
        float wanted[group_size];
        unsigned signs = 0;
        for (int k = 0; k < group_size; k++) {
            float value = weights[position + k] - offset_[position + k];
            bool is_turned = grid.signs != Signs::within && value < 0;
            signs |= static_cast<unsigned>(is_turned) << k;
            wanted[k] = is_turned ? -value : value;
        }
        if (grid.signs == Signs::even && __builtin_popcount(signs) % 2 == 1) {
            // The sign that costs least to get wrong.
            int cheapest = 0;
            for (int k = 1; k < group_size; k++) {
                if (cost[k] * wanted[k] * wanted[k] <
                    cost[cheapest] * wanted[cheapest] * wanted[cheapest]) {
                    cheapest = k;
                }
            }
            signs ^= 1U << cheapest;
            wanted[cheapest] = -wanted[cheapest];
        }
        int entries[2] = {0, 0};
        float values[group_size];
        for (int k = 0; k < group_size; k += grid.width) {
            float scale = scale_[position + k];
            grid_costs(grid, wanted + k, cost + k, scale, costs_.data());
            int entry = place_of_least(costs_.data(), grid.entries);
            entries[k / grid.width] = entry;
            for (int j = k; j < k + grid.width; j++) {
                float size =
                    scale * grid.columns[static_cast<int64_t>(j - k) * grid.entries + entry];
                values[j] = ((signs >> j & 1) != 0 ? -size : size) + offset_[position + j];
            }
        }
        format_.write_group(block, position / group_size, entries, signs);
        for (int k = 0; k < group_size; k++) {
            make_up(weights, start, position + k, values[k], errors, position + group_size);
        }
        for (int k = 0; k < group_size; k++) {
            const float* row = factor_.row(start + position + k) + start + position + group_size;
            subtract(weights + position + group_size, row, errors[position + k],
                     end - position - group_size);
        }
    }

    // Notes the error of a weight that became `value`, and lets the weights up to `end` of its
    // block make up for it.
    void make_up(float* weights, int64_t start, int position, float value, float* errors, int end) {
        const float* row = factor_.row(start + position) + start;
        errors[position] = (weights[position] - value) / row[position];
        subtract(weights + position + 1, row + position + 1, errors[position], end - position - 1);
    }

    // Lets the weights from `to` up to `end` make up for the errors of those from `from` on, all in
    // or after the block that begins at `start`.
    void spread(int64_t start, int64_t from, int64_t to, int64_t end) {
        constexpr int64_t strip = 512;
        for (int64_t column = to; column < end; column += strip) {
            subtract_products({weights_.data() + column, factor_.columns,
                               errors_.data() + from - start, format_.size,
                               factor_.row(from) + column, factor_.columns, to - from,
                               std::min(strip, end - column)});
        }
    }

    const FeedbackRequest& request_;
    ggml_type type_;
    const BlockFormat& format_;
    const Factor& factor_;
    uint8_t* result_;
    std::vector<float> weights_; // [rows_per_tile, columns], what is still to be encoded
    std::vector<float> errors_;  // [rows_per_tile, size]
    std::vector<float> importance_;
    std::vector<float> scales_;  // [rows_per_tile, size], of a type with levels or a grid
    std::vector<float> offsets_; // [rows_per_tile, size]
    std::vector<float> kept_;    // [rows_per_tile, size], of a type that has neither
    const float* scale_ = nullptr;
    const float* offset_ = nullptr;
    std::vector<float> costs_;
};

} // namespace

void quantize_with_feedback(const FeedbackRequest& request, const std::string& type_name,
                            uint8_t* result) {
    ggml_type type = quantization_type(type_name);
    BlockFormat format = block_format(type);
    if (format.size % part_size != 0) {
        throw ArgumentError("the type " + type_name + " has no blocks to choose within");
    }
    check_finite(request.weights, request.rows, request.columns);
    int64_t padded = (request.columns + format.size - 1) / format.size * format.size;
    Factor factor = make_factor(request, padded, format.size);
    ggml_quantize_init(type);
    int64_t tiles = (request.rows + rows_per_tile - 1) / rows_per_tile;
    run_on_threads(request.threads, tiles, [&](std::atomic<int64_t>& next_tile) {
        Encoder encoder(request, type, format, factor, result);
        for (int64_t tile = next_tile++; tile < tiles; tile = next_tile++) {
            encoder.encode_tile(tile * rows_per_tile);
        }
    });
}

} // namespace actquant
