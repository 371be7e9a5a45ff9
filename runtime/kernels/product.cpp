#include "kernels/product.h"

#include <algorithm>

namespace actquant {

const std::vector<ProductKernel>& product_kernels() {
    static const std::vector<ProductKernel> kernels = {
        {"ggml", [](ggml_type) { return true; }, ggml_mul_mat},
    };
    return kernels;
}

ggml_tensor* product(ggml_context* ggml, ggml_tensor* weight, ggml_tensor* x) {
    const std::vector<ProductKernel>& kernels = product_kernels();
    auto found = std::find_if(kernels.begin(), kernels.end(), [&](const ProductKernel& kernel) {
        return kernel.takes(weight->type);
    });
    return found->build(ggml, weight, x);
}

} // namespace actquant
