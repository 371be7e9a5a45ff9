#include "weights/panels.h"

#include "common/alignment.h"
#include "common/error.h"
#include "kernels/dequantize.h"

#include <cstdlib>

namespace actquant {
PackedRows packed_rows(const ggml_tensor* weight, const PanelKernel& kernel) {
    return {weight->data,
            weight->nb[1],
            ggml_blck_size(weight->type),
            ggml_type_size(weight->type),
            weight->ne[0],
            weight->ne[1],
            to_float(kernel.isa, weight->type)};
}

size_t panel_stride(const ggml_tensor* weight, const PanelKernel& kernel) {
    return aligned(kernel.panel_bytes(weight->ne[0]));
}

void Panels::Free::operator()(char* memory) const {
    std::free(memory);
}

const char* Panels::of(const ggml_tensor* weight, const PanelKernel& kernel) {
    auto found = table.find(weight);
    if (found != table.end()) {
        return found->second.get();
    }
    size_t stride = panel_stride(weight, kernel);
    int64_t count = (weight->ne[1] + PANEL_ROWS - 1) / PANEL_ROWS;
    size_t bytes = static_cast<size_t>(count) * stride;
    std::unique_ptr<char, Free> memory(static_cast<char*>(std::aligned_alloc(cache_line, bytes)));
    if (!memory) {
        throw Error("out of memory for " + std::string(ggml_get_name(weight)) +
                    ", unpacked: " + std::to_string(bytes) + " bytes");
    }
    for (int64_t k = 0; k < count; k++) {
        kernel.unpack(packed_rows(weight, kernel), k * PANEL_ROWS,
                      memory.get() + static_cast<size_t>(k) * stride);
    }
    total += bytes;
    return table.emplace(weight, std::move(memory)).first->second.get();
}

} // namespace actquant
