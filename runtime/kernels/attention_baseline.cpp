#define ACTQUANT_VECTOR_FLOATS 4
#define ACTQUANT_ROWS 6
#define ACTQUANT_BFLOAT16 0
#define ACTQUANT_KERNEL attention_baseline
#define ACTQUANT_KERNEL_NAME "baseline"
#include "kernels/attention_impl.h"
