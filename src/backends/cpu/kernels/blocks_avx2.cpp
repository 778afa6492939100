// Sums of matrix blocks for AVX2 and FMA.
#include "backends/cpu/kernels/blocks_impl.hpp"
