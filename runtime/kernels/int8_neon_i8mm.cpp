#define ACTQUANT_VECTOR_FLOATS 4
#define ACTQUANT_ROWS 10
#define ACTQUANT_WEIGHT_LEVEL 127
#define ACTQUANT_WEIGHT_OFFSET 0
#define ACTQUANT_GROUP 8
#define ACTQUANT_TILE "kernels/int8_matrix_tile.h"
#define ACTQUANT_KERNEL int8_neon_i8mm
#define ACTQUANT_KERNEL_ISA Isa::neon_i8mm
#include "kernels/int8_impl.h"
