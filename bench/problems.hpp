// The problems in bench/problems/*.txt: one a line, a name and integers. The benchmarks time them, and
// tests/cpu/problems_test.cpp checks the results of the same lines.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "backends/cpu/jit/conv.hpp"
#include "backends/cpu/jit/depthwise.hpp"
#include "backends/cpu/jit/gemm.hpp"
#include "backends/cpu/kernels/kernels.hpp"

namespace planish::cpu::problems {

template <typename Shape>
struct Problem {
    std::string name;
    Shape shape;
};

/// Rows of floats, for softmax and the normalisations.
struct Rows {
    int64_t rows, columns;
};

using Numbers = std::vector<int64_t>;

// name m n k
inline void read(const Numbers& p, GemmShape& shape) {
    shape = {p.at(0), p.at(1), p.at(2)};
}

// name size channels_in channels_out kernel stride pad
inline void read(const Numbers& p, ConvShape& shape) {
    shape.h = shape.w = p.at(0);
    shape.c = p.at(1);
    shape.oc = p.at(2);
    shape.kh = shape.kw = p.at(3);
    shape.stride_h = shape.stride_w = p.at(4);
    shape.pad_top = shape.pad_left = shape.pad_bottom = shape.pad_right = p.at(5);
}

// name size channels kernel stride pad
inline void read(const Numbers& p, DepthwiseShape& shape) {
    shape.height = shape.width = p.at(0);
    shape.channels = p.at(1);
    shape.kernel_h = shape.kernel_w = p.at(2);
    shape.stride_h = shape.stride_w = p.at(3);
    shape.pad_top = shape.pad_left = shape.pad_bottom = shape.pad_right = p.at(4);
}

// name heads queries keys head_dim: rows of [heads, head_dim], as projections give them
inline void read(const Numbers& p, AttentionArgs& args) {
    args.heads = args.kv_heads = p.at(0);
    args.queries = p.at(1);
    args.keys = p.at(2);
    args.head_dim = args.value_dim = p.at(3);
    const AttentionArgs::Strides strides{0, args.head_dim, args.heads * args.head_dim};
    args.query_strides = args.key_strides = args.value_strides = args.output_strides = strides;
    args.scale = 1 / std::sqrt(static_cast<float>(args.head_dim));
}

// name rows columns
inline void read(const Numbers& p, Rows& rows) {
    rows = {p.at(0), p.at(1)};
}

/// The problems of FILE.txt. The folder is the source tree's, or $PLANISH_BENCH_PROBLEMS. Throws when there are none.
template <typename Shape>
std::vector<Problem<Shape>> load(const std::string& file) {
    const char* given = std::getenv("PLANISH_BENCH_PROBLEMS");
    const std::string path = std::string(given ? given : PLANISH_BENCH_PROBLEMS_DIR) + "/" + file + ".txt";
    std::ifstream in(path);
    std::vector<Problem<Shape>> problems;
    for (std::string line; std::getline(in, line);) {
        if (line.empty() || line[0] == '#') continue;
        std::istringstream words(line);
        Problem<Shape> problem{};
        words >> problem.name;
        Numbers numbers;
        for (int64_t n = 0; words >> n;) numbers.push_back(n);
        read(numbers, problem.shape);
        problems.push_back(problem);
    }
    if (problems.empty()) throw std::runtime_error("no problems in " + path);
    return problems;
}

}  // namespace planish::cpu::problems
