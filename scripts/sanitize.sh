#!/usr/bin/env bash
# Unit tests under AddressSanitizer + UndefinedBehaviorSanitizer, then the concurrency tests under ThreadSanitizer.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# ONNX and protobuf come without instrumentation, so containers that cross the border look overflowed: that one check is off.
export ASAN_OPTIONS=allocator_may_return_null=1:detect_container_overflow=0:detect_leaks=1:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1
# run PRESET TARGETS CTEST_ARGS...: configure, build the tests, run them.
run() {
    local preset=$1 targets=$2
    shift 2
    say "$preset: building the unit tests"
    cmake --preset "$preset" >/dev/null
    # shellcheck disable=SC2086
    cmake --build "build/$preset" -j "$(nproc)" -t $targets "${quiet[@]}"
    say "$preset: running"
    ctest --preset "$preset" -j "$(nproc)" --timeout 300 "$@"
}
run tsan "planish_tests_base planish_tests_runtime" -R '^(ThreadPool|Engine|ProgramCache|CApi)\.'
run debug planish_tests
