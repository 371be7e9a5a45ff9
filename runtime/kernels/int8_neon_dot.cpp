#define ACTQUANT_VECTOR_FLOATS 4
#define ACTQUANT_ROWS 12
#define ACTQUANT_WEIGHT_LEVEL 127
#define ACTQUANT_WEIGHT_OFFSET 0
#define ACTQUANT_GROUP 4
#define ACTQUANT_TILE "kernels/int8_dot_tile.h"
#define ACTQUANT_DOT(total, weights, activations)                                                  \
    total = (IntVec)vdotq_s32((int32x4_t)total, (int8x16_t)weights, (int8x16_t)activations)
#define ACTQUANT_KERNEL int8_neon_dot
#define ACTQUANT_KERNEL_ISA Isa::neon_dot
#include "kernels/int8_impl.h"
