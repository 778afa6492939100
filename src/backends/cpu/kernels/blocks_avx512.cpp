// Sums of matrix blocks for AVX-512 F, BW, DQ, VL.
#include "backends/cpu/kernels/blocks_impl.hpp"
