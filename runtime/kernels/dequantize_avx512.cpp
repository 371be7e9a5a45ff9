#define ACTQUANT_TO_FLOAT to_float_avx512
#include "kernels/dequantize_impl.h"
