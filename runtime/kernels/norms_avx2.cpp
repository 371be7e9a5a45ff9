#define ACTQUANT_VECTOR_FLOATS 8
#define ACTQUANT_KERNEL norms_avx2
#include "kernels/norms_impl.h"
