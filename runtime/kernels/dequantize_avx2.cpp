#define ACTQUANT_TO_FLOAT to_float_avx2
#include "kernels/dequantize_impl.h"
