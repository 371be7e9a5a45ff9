#include "kernels/dequantize.h"

namespace actquant {

#if defined(__x86_64__)
// Null for types that they do not have.
ToFloat to_float_avx2(ggml_type type);
ToFloat to_float_avx512(ggml_type type);
#elif defined(__aarch64__)
ToFloat to_float_neon(ggml_type type);
#endif

ToFloat to_float([[maybe_unused]] Isa isa, ggml_type type) {
    ToFloat found = nullptr;
#if defined(__x86_64__)
    found = isa >= Isa::avx512 ? to_float_avx512(type)
            : isa >= Isa::avx2 ? to_float_avx2(type)
                               : nullptr;
#elif defined(__aarch64__)
    found = isa >= Isa::baseline ? to_float_neon(type) : nullptr;
#endif
    return found != nullptr ? found : ggml_get_type_traits(type)->to_float;
}

} // namespace actquant
