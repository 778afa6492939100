#!/usr/bin/env bash
# All tests: the C++ unit tests, then the Python tests, which run the command line and the examples too.
# Installs and builds what is missing first. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
say "C++ unit tests"
ctest --preset release -j "$(nproc)"
say "Python tests"
python -m pytest tests/python "$@"
