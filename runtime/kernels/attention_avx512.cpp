#define ACTQUANT_VECTOR_FLOATS 16
#define ACTQUANT_ROWS 12
#define ACTQUANT_BFLOAT16 0
#define ACTQUANT_KERNEL attention_avx512
#define ACTQUANT_KERNEL_NAME "avx512"
#include "kernels/attention_impl.h"
