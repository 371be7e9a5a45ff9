#define ACTQUANT_VECTOR_FLOATS 4
#ifdef __aarch64__
#define ACTQUANT_ROWS 12
#else
#define ACTQUANT_ROWS 6
#endif
#define ACTQUANT_BFLOAT16 0
#define ACTQUANT_KERNEL attention_baseline
#define ACTQUANT_KERNEL_NAME "baseline"
#include "kernels/attention_impl.h"
