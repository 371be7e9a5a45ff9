#include "quantization/feedback.h"

#include "common/error.h"
#include "quantization/blocks.h"
#include "quantization/quantize.h"

#include <ggml.h>

#include <algorithm>
#include <atomic>
#include <cmath>
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
constexpr int rows_per_tile = 8;
constexpr float importance_floor = 1e-3F;

// target -= factor * source, [count].
ACTQUANT_EVERY_CPU
void subtract(float* target, const float* source, float factor, int64_t count) {
    for (int64_t k = 0; k < count; k++) {
        target[k] -= factor * source[k];
    }
}

// Fills costs [entries] with the weighted squared distance of each grid entry from `wanted`
// [width], without what all entries share.
ACTQUANT_EVERY_CPU
void grid_costs(const Grid& grid, const float* wanted, const float* weights, float scale,
                float* costs) {
    std::fill_n(costs, grid.entries, 0.0F);
    for (int k = 0; k < grid.width; k++) {
        const float* values = grid.columns + static_cast<int64_t>(k) * grid.entries;
        float square = weights[k] * scale * scale;
        float linear = -2 * weights[k] * scale * wanted[k];
        for (int n = 0; n < grid.entries; n++) {
            costs[n] += values[n] * (square * values[n] + linear);
        }
    }
}

ACTQUANT_EVERY_CPU
int place_of_least(const float* costs, int count) {
    float least = costs[0];
    for (int n = 1; n < count; n++) {
        least = costs[n] < least ? costs[n] : least;
    }
    return static_cast<int>(std::find(costs, costs + count, least) - costs);
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
void error_weights(const Factor& factor, int64_t start, int64_t count, float* result) {
    std::vector<double> inverse(count); // one row of U^-1
    for (int64_t i = 0; i < count; i++) {
        std::fill(inverse.begin(), inverse.end(), 0.0);
        double energy = 0;
        for (int64_t j = i; j < count; j++) {
            double sum = i == j ? 1.0 : 0.0;
            for (int64_t k = i; k < j; k++) {
                sum -= inverse[k] * factor.row(start + k)[start + j];
            }
            inverse[j] = sum / factor.row(start + j)[start + j];
            energy += inverse[j] * inverse[j];
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
          importance_(format.size), scale_(format.size), offset_(format.size), kept_(format.size),
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
            for (int64_t r = 0; r < rows; r++) {
                uint8_t* block =
                    result_ + (first_row + r) * row_bytes + start / format_.size * format_.bytes;
                encode_block(weights_.data() + r * columns, start, block,
                             errors_.data() + r * format_.size);
            }
            spread(start, rows);
        }
    }

  private:
    // Encodes the block of a row that begins at `start`. errors [size]: of each weight, divided by
    // the factor's diagonal.
    void encode_block(float* row, int64_t start, uint8_t* block, float* errors) {
        choose_scales(row + start, start, block);
        if (format_.grid != nullptr) {
            format_.read_scales(block, scale_.data(), offset_.data());
            for (int k = 0; k < format_.size; k += group_size) {
                choose_group(row + start, start, k, block, errors);
            }
        } else if (format_.levels != nullptr) {
            format_.read_scales(block, scale_.data(), offset_.data());
            for (int k = 0; k < format_.size; k++) {
                float value = choose_level(row[start + k], k, block);
                make_up(row + start, start, k, value, errors, format_.size);
            }
        } else {
            ggml_to_float_t to_float = ggml_get_type_traits(type_)->to_float;
            to_float(block, kept_.data(), format_.size);
            for (int k = 0; k < format_.size; k++) {
                make_up(row + start, start, k, kept_[k], errors, format_.size);
            }
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
        int best = 0;
        float least = INFINITY;
        for (int n = 0; n < format_.level_count; n++) {
            float distance = std::fabs(scale * format_.levels[n] + offset - wanted);
            if (distance < least) {
                least = distance;
                best = n;
            }
        }
        format_.write_level(block, position, best);
        return scale * format_.levels[best] + offset;
    }

    void choose_group(float* weights, int64_t start, int position, uint8_t* block, float* errors) {
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
                     format_.size - position - group_size);
        }
    }

    // Notes the error of a weight that became `value`, and lets the weights up to `end` of its
    // block make up for it.
    void make_up(float* weights, int64_t start, int position, float value, float* errors, int end) {
        const float* row = factor_.row(start + position) + start;
        errors[position] = (weights[position] - value) / row[position];
        subtract(weights + position + 1, row + position + 1, errors[position], end - position - 1);
    }

    // Lets the weights after a block make up for its errors.
    void spread(int64_t start, int64_t rows) {
        constexpr int64_t strip = 512;
        int64_t columns = factor_.columns;
        for (int64_t from = start + format_.size; from < columns; from += strip) {
            int64_t count = std::min(strip, columns - from);
            for (int k = 0; k < format_.size; k++) {
                const float* source = factor_.row(start + k) + from;
                for (int64_t r = 0; r < rows; r++) {
                    subtract(weights_.data() + r * columns + from, source,
                             errors_[r * format_.size + k], count);
                }
            }
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
    std::vector<float> scale_;
    std::vector<float> offset_;
    std::vector<float> kept_;
    std::vector<float> costs_;
};

} // namespace

void quantize_with_feedback(const FeedbackRequest& request, const std::string& type_name,
                            uint8_t* result) {
    ggml_type type = quantization_type(type_name);
    BlockFormat format = block_format(type);
    if (format.size % group_size != 0) {
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
