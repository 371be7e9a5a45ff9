// Without VNNI pairs of products are added in 16 bits, which 7 bits of a weight leave room for.
#define ACTQUANT_VECTOR_FLOATS 8
#define ACTQUANT_ROWS 5
#define ACTQUANT_WEIGHT_LEVEL 63
#define ACTQUANT_WEIGHT_OFFSET 64
#define ACTQUANT_GROUP 4
#define ACTQUANT_TILE "kernels/int8_dot_tile.h"
#define ACTQUANT_DOT(total, weights, activations)                                                  \
    total += (IntVec)_mm256_madd_epi16(                                                            \
        _mm256_maddubs_epi16((__m256i)weights, (__m256i)activations), _mm256_set1_epi16(1))
#define ACTQUANT_KERNEL int8_avx2
#define ACTQUANT_KERNEL_ISA Isa::avx2
#include "kernels/int8_impl.h"
