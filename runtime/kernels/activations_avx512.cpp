#define ACTQUANT_VECTOR_FLOATS 16
#define ACTQUANT_KERNEL activations_avx512
#include "kernels/activations_impl.h"
