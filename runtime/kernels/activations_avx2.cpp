#define ACTQUANT_VECTOR_FLOATS 8
#define ACTQUANT_KERNEL activations_avx2
#include "kernels/activations_impl.h"
