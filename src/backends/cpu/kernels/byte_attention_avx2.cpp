// Attention on bytes for AVX2 + FMA.
#include "backends/cpu/kernels/byte_attention_impl.hpp"
