// Kernels over bytes for AVX-512 F, BW, DQ, VL.
#include "backends/cpu/kernels/bytes_impl.hpp"
