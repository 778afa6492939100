#!/usr/bin/env bash
# Release build of the command and the Python module on a GPU machine, which may have no package source: with the
# dependencies in .gpu/deps (scripts/gpu-deps.sh) where that folder is, else with what is installed. Sourced by test-gpu.sh
# and bench-gpu.sh; leaves PATH and PYTHONPATH set.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
build=$root/build/gpu
options=(-DCMAKE_BUILD_TYPE=Release -DPLANISH_PYTHON=ON -DPLANISH_SHARED=OFF -DPLANISH_EXAMPLES=OFF -DPLANISH_TESTS=OFF)
if [ -d .gpu/deps ]; then
    options+=("-DCMAKE_PREFIX_PATH=$root/.gpu/deps" "-DPLANISH_DEPS_DIR=$root/.gpu/deps" "-DCMAKE_CXX_FLAGS=-Wno-error")
fi
python=${PLANISH_PYTHON:-$(command -v python3)}
start=$SECONDS
cmake -S . -B "$build" -G Ninja "-DPython_EXECUTABLE=$python" "${options[@]}" >build-gpu.log 2>&1 &&
    cmake --build "$build" -j "$(nproc)" >>build-gpu.log 2>&1 || {
    grep -n -A6 'error\|FAILED' build-gpu.log | head -60
    tail -n 5 build-gpu.log
    exit 1
}
echo "built in $((SECONDS - start)) s"
export PATH=$build:$PATH PYTHONPATH=$build/python${PYTHONPATH:+:$PYTHONPATH} PLANISH_PYTHON=$python
