// Row and axis kernels for x86-64 baseline.
#include "backends/cpu/kernels/rows_impl.hpp"
