#!/usr/bin/env bash
# Everything that needs a GPU: builds, then runs tests/gpu. Arguments choose parts:
#   core       graphs, pointers, streams, contexts
#   kernels    every kernel family by every tactic over odd shapes, in every precision
#   nodes      ONNX's backend cases, from .gpu/nodes.zip (scripts/gpu-deps.sh)
#   shapes     10,000 runs with random shapes, memory flat
#   models     whole networks
#   sanitizer  compute-sanitizer, memcheck and racecheck, over the kernel tests
#   usage: scripts/test-gpu.sh [PART...]   (default: all)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/gpu-build.sh"
planish doctor || true
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(core kernels nodes shapes models sanitizer)
status=0
for part in "${parts[@]}"; do
    echo "== $part"
    case $part in
        sanitizer)
            for tool in memcheck racecheck; do
                echo "-- $tool"
                timeout 300 compute-sanitizer --tool "$tool" --error-exitcode 99 "$PLANISH_PYTHON" \
                    tests/gpu/kernels.py --first || status=1
            done
            ;;
        *) timeout 500 "$PLANISH_PYTHON" "tests/gpu/$part.py" || status=1 ;;
    esac
done
exit $status
