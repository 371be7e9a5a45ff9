#define ACTQUANT_VECTOR_FLOATS 16
#define ACTQUANT_ROWS 12
#define ACTQUANT_BFLOAT16 1
#define ACTQUANT_KERNEL attention_avx512_bf16
#define ACTQUANT_KERNEL_NAME "avx512_bf16"
#include "kernels/attention_impl.h"
