// Attention for x86-64 baseline.
#include "backends/cpu/kernels/attention_impl.hpp"
