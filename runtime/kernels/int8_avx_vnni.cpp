#define ACTQUANT_VECTOR_FLOATS 8
#define ACTQUANT_ROWS 6
#define ACTQUANT_WEIGHT_LEVEL 127
#define ACTQUANT_WEIGHT_OFFSET 128
#define ACTQUANT_GROUP 4
#define ACTQUANT_TILE "kernels/int8_dot_tile.h"
#define ACTQUANT_DOT(total, weights, activations)                                                  \
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(total) : "x"(weights), "x"(activations))
#define ACTQUANT_KERNEL int8_avx_vnni
#define ACTQUANT_KERNEL_ISA Isa::avx_vnni
#include "kernels/int8_impl.h"
