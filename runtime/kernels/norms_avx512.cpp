#define ACTQUANT_VECTOR_FLOATS 16
#define ACTQUANT_KERNEL norms_avx512
#include "kernels/norms_impl.h"
