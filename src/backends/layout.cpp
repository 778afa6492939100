// Moving values between layouts.
#include "backends/layout.hpp"

#include <cstring>

namespace planish {

void reorder(const std::byte* from, Layout from_layout, std::byte* to, Layout to_layout, const Dims& dims,
             int64_t bytes) {
    const int64_t count = element_count(dims);
    if (from_layout == to_layout || layouts_coincide(dims)) {
        std::memcpy(to, from, static_cast<size_t>(count * bytes));
        return;
    }
    const int64_t n = dims[0], c = dims[1], spatial = n * c == 0 ? 0 : count / (n * c);
    // [rows, columns] -> [columns, rows] for each image.
    const int64_t rows = from_layout == Layout::plain ? c : spatial,
                  columns = from_layout == Layout::plain ? spatial : c;
    for (int64_t i = 0; i < n; ++i)
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t k = 0; k < columns; ++k)
                std::memcpy(to + ((i * columns + k) * rows + r) * bytes, from + ((i * rows + r) * columns + k) * bytes,
                            static_cast<size_t>(bytes));
}

}  // namespace planish
