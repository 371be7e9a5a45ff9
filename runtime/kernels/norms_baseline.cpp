#define ACTQUANT_VECTOR_FLOATS 4
#define ACTQUANT_KERNEL norms_baseline
#include "kernels/norms_impl.h"
