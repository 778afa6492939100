// Attention for AVX-512 F, BW, DQ, VL.
#include "backends/cpu/kernels/attention_impl.hpp"
