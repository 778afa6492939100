#!/usr/bin/env bash
# Everything that needs a GPU: builds, then runs tests/gpu. Arguments choose parts: core kernels models nodes sanitizer.
#   usage: scripts/test-gpu.sh [PART...]   (default: all that are there)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/gpu-build.sh"
planish doctor || true
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(core models)
status=0
for part in "${parts[@]}"; do
    echo "== $part"
    case $part in
        sanitizer)  # compute-sanitizer over a few small networks, by direct launches and by graphs
            for tool in memcheck racecheck; do
                timeout 300 compute-sanitizer --tool "$tool" --error-exitcode 9 "$PLANISH_PYTHON" tests/gpu/core.py || status=1
            done
            ;;
        *) timeout 500 "$PLANISH_PYTHON" "tests/gpu/$part.py" || status=1 ;;
    esac
done
exit $status
