// Attention on bytes for AVX-512 F, BW, DQ, VL.
#include "backends/cpu/kernels/byte_attention_impl.hpp"
