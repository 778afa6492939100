// Row and axis kernels for AVX-512 F, BW, DQ, VL.
#include "backends/cpu/kernels/rows_impl.hpp"
