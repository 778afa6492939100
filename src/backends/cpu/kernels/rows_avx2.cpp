// Row and axis kernels for AVX2 and FMA.
#include "backends/cpu/kernels/rows_impl.hpp"
