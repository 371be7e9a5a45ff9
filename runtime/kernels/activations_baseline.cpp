#define ACTQUANT_VECTOR_FLOATS 4
#define ACTQUANT_KERNEL activations_baseline
#include "kernels/activations_impl.h"
