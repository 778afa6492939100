#!/usr/bin/env bash
# The figures of docs/performance.md on this machine: whole networks beside ONNX Runtime, OpenVINO and PyTorch.
# Installs and builds what is missing first. Arguments go to bench/models.py (--help shows them); `kernels` as the first
# argument runs the micro-benchmarks instead, and the others go to Google Benchmark (--benchmark_filter=gemm/bert).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
if [ "${1:-}" = kernels ]; then
    shift
    apt_install libbenchmark-dev
    cmake --preset release -DPLANISH_BENCH=ON >/dev/null
    cmake --build "$build" -j "$(nproc)" --target bench_kernels "${quiet[@]}"
    exec "$build/bench/bench_kernels" "$@"
fi
pip_install bench "OpenVINO" openvino
exec python bench/models.py "$@"
