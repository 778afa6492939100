// Attention on bytes for AVX-512 with VNNI.
#include "backends/cpu/kernels/byte_attention_impl.hpp"
