#include "kernels/dequantize.h"

namespace actquant {

#if defined(__x86_64__)
// Null for types that they do not have.
ToFloat to_float_avx2(ggml_type type);
ToFloat to_float_avx512(ggml_type type);
#endif

ToFloat to_float([[maybe_unused]] Isa isa, ggml_type type) {
#if defined(__x86_64__)
    ToFloat found = isa >= Isa::avx512 ? to_float_avx512(type)
                    : isa >= Isa::avx2 ? to_float_avx2(type)
                                       : nullptr;
    if (found != nullptr) {
        return found;
    }
#endif
    return ggml_get_type_traits(type)->to_float;
}

} // namespace actquant
