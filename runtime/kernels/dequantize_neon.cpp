#define ACTQUANT_TO_FLOAT to_float_neon
#include "kernels/dequantize_impl.h"
