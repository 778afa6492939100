// Channels-last image kernels and transposes for AVX-512 F, BW, DQ, VL.
#include "backends/cpu/kernels/image_impl.hpp"
