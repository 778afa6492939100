// Channels-last image kernels and transposes for x86-64 baseline.
#include "backends/cpu/kernels/image_impl.hpp"
