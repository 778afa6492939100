// Sums of matrix blocks for x86-64 baseline.
#include "backends/cpu/kernels/blocks_impl.hpp"
