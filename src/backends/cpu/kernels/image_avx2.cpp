// Channels-last image kernels and transposes for AVX2 and FMA.
#include "backends/cpu/kernels/image_impl.hpp"
