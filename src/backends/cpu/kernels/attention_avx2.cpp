// Attention for AVX2 and FMA.
#include "backends/cpu/kernels/attention_impl.hpp"
