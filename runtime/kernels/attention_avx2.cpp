#define ACTQUANT_VECTOR_FLOATS 8
#define ACTQUANT_ROWS 6
#define ACTQUANT_BFLOAT16 0
#define ACTQUANT_KERNEL attention_avx2
#define ACTQUANT_KERNEL_NAME "avx2"
#include "kernels/attention_impl.h"
