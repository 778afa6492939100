// Quantisation: QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear.
#include "reference/quantize.hpp"

#include <algorithm>

#include "planish/error.hpp"

namespace planish::reference {

void subtract_per_line(std::vector<double>& values, const Dims& dims, const std::vector<double>& zeros, bool per_row,
                       const RefContext& ctx) {
    if (values.empty()) return;
    const int64_t columns = dims.empty() ? 1 : dims.back();
    const int64_t rows = dims.size() < 2 ? 1 : dims[dims.size() - 2];
    const auto count = static_cast<int64_t>(zeros.size());
    const int64_t lines = per_row ? static_cast<int64_t>(values.size()) / columns : columns;
    if (count != 1 && count != (per_row ? rows : columns) && count != lines)
        ctx.error("has " + std::to_string(count) + " zero points for an operand of shape " + to_string(dims));
    for (size_t i = 0; i < values.size(); ++i) {
        const auto at = static_cast<int64_t>(i);
        const int64_t line = per_row ? at / columns : at % columns;
        values[i] -= zeros[static_cast<size_t>(line % count)];
    }
}

}  // namespace planish::reference
