#define ACTQUANT_VECTOR_FLOATS 16
#define ACTQUANT_ROWS 12
#define ACTQUANT_WEIGHT_LEVEL 127
#define ACTQUANT_WEIGHT_OFFSET 128
#define ACTQUANT_GROUP 4
#define ACTQUANT_TILE "kernels/int8_dot_tile.h"
// By intrinsics GCC 12 keeps the totals in memory.
#define ACTQUANT_DOT(total, weights, activations)                                                  \
    asm("vpdpbusd %2, %1, %0" : "+v"(total) : "v"(weights), "v"(activations))
#define ACTQUANT_KERNEL int8_avx512_vnni
#define ACTQUANT_KERNEL_ISA Isa::avx512_vnni
#include "kernels/int8_impl.h"
