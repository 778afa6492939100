#!/usr/bin/env bash
# Unit tests under AddressSanitizer + UndefinedBehaviorSanitizer, then the concurrency tests under ThreadSanitizer.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# ONNX and protobuf come without instrumentation, so containers that cross the border look overflowed: that one check is off.
export ASAN_OPTIONS=detect_container_overflow=0:detect_leaks=1:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1
# run PRESET CTEST_ARGS...: configure, build the tests, run them.
run() {
    local preset=$1
    shift
    say "$preset: building the unit tests"
    cmake --preset "$preset" >/dev/null
    cmake --build "build/$preset" -t planish_tests -j "$(nproc)" "${quiet[@]}"
    say "$preset: running"
    ctest --preset "$preset" -j "$(nproc)" --progress "$@"
}
run tsan -R '(ThreadPool|Concurren|Parallel|Race)'
run debug
