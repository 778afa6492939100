// Kernels over bytes for x86-64 baseline.
#include "backends/cpu/kernels/bytes_impl.hpp"
