// A dense row-major matrix, and what every least-squares problem does with one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace planish {

template <typename T>
struct Matrix {
    Matrix() = default;
    Matrix(int64_t rows, int64_t columns)
        : rows(rows), columns(columns), data(static_cast<std::size_t>(rows * columns)) {}
    T* row(int64_t i) { return data.data() + i * columns; }
    const T* row(int64_t i) const { return data.data() + i * columns; }
    T& at(int64_t i, int64_t j) { return row(i)[j]; }
    T at(int64_t i, int64_t j) const { return row(i)[j]; }

    int64_t rows = 0, columns = 0;
    std::vector<T> data;
};

template <typename T>
Matrix<T> transposed(const Matrix<T>& a) {
    Matrix<T> t(a.columns, a.rows);
    constexpr int64_t kTile = 16;  // of both: a cache line is read and written while it is there
    for (int64_t i0 = 0; i0 < a.rows; i0 += kTile)
        for (int64_t j0 = 0; j0 < a.columns; j0 += kTile)
            for (int64_t i = i0; i < std::min(a.rows, i0 + kTile); ++i)
                for (int64_t j = j0; j < std::min(a.columns, j0 + kTile); ++j) t.at(j, i) = a.at(i, j);
    return t;
}

/// Subtracts from each column its mean and returns the means.
template <typename T>
std::vector<double> centre_columns(Matrix<T>& a) {
    std::vector<double> means(static_cast<std::size_t>(a.columns));
    for (int64_t i = 0; i < a.rows; ++i)
        for (int64_t j = 0; j < a.columns; ++j) means[static_cast<std::size_t>(j)] += a.at(i, j);
    for (double& mean : means) mean /= static_cast<double>(std::max<int64_t>(a.rows, 1));
    for (int64_t i = 0; i < a.rows; ++i)
        for (int64_t j = 0; j < a.columns; ++j) a.at(i, j) -= static_cast<T>(means[static_cast<std::size_t>(j)]);
    return means;
}

}  // namespace planish
