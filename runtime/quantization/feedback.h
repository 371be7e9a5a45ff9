#pragma once

#include <cstdint>
#include <string>

namespace actquant {

struct FeedbackRequest {
    const float* weights = nullptr; // [rows, columns]
    // [columns, columns], upper triangular with a positive diagonal: the Cholesky factor U of the
    // inverse Hessian of a row, H^-1 = U' U.
    const float* factor = nullptr;
    int64_t rows = 0;
    int64_t columns = 0;
    int threads = 0; // 0: all
};

// Fills `result` [rows, quantized_row_bytes] so that the error of each weight is made up for by the
// weights after it (LDLQ, Chee et al., arXiv:2307.13304), inside ggml's blocks: ggml chooses the
// scales of a block, and levels and grid entries are then chosen from left to right. The same bytes
// on any number of threads.
void quantize_with_feedback(const FeedbackRequest& request, const std::string& type,
                            uint8_t* result);

} // namespace actquant
