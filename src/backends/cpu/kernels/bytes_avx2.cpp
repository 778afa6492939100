// Kernels over bytes for AVX2 and FMA.
#include "backends/cpu/kernels/bytes_impl.hpp"
