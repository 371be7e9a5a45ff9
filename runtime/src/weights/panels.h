#pragma once

#include "kernels/panel_product.h"

#include <ggml.h>

#include <map>
#include <memory>

namespace actquant {

// The rows of a weight, as the kernel unpacks them.
PackedRows packed_rows(const ggml_tensor* weight, const PanelKernel& kernel);
// Of a panel in memory where each begins a cache line.
size_t panel_stride(const ggml_tensor* weight, const PanelKernel& kernel);

// Weights unpacked once, for programs that read them many times: 8 bits a weight, or 16.
class Panels {
  public:
    // All panels of a weight, unpacked when it is asked for first.
    const char* of(const ggml_tensor* weight, const PanelKernel& kernel);
    size_t bytes() const { return total; }
    // Whether a weight is here, so that its blocks are not read any more.
    bool has(const ggml_tensor* weight) const { return table.count(weight) > 0; }

  private:
    struct Free {
        void operator()(char* memory) const;
    };

    std::map<const ggml_tensor*, std::unique_ptr<char, Free>> table;
    size_t total = 0;
};

} // namespace actquant
