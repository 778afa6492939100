// The one matrix product that the reference functions share: float64 accumulation, blocked for the caches.
#pragma once

#include <cstdint>

#include "base/function_ref.hpp"

namespace planish::reference {

/// Writes `count` elements of line `line` of a matrix, from column `first` on, to `out`.
using ReadLine = FunctionRef<void(int64_t line, int64_t first, int64_t count, double* out)>;

/// C[m, n] += sum over k of A[m, k] * B[k, n] for a row-major C of m rows and n columns.
/// The lines of A are its rows (along k), those of B its rows (along n). Every sum runs over ascending k, so the result
/// does not depend on the number of threads. The callbacks run concurrently.
void blocked_gemm(int64_t m, int64_t n, int64_t k, ReadLine a, ReadLine b, double* c);

}  // namespace planish::reference
