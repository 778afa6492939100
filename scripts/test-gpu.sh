#!/usr/bin/env bash
# Everything that needs a GPU, what tells most first: builds, then runs tests/gpu, each part within its time. Prints what fails and
# each part's last line; the rest is in build/gpu/log, and in $OUT where that is set. Parts:
#   kernels    every kernel family by every tactic over odd shapes, in every precision
#   batch1     times of whole networks, tactics timed: batch 1
#   memcheck   compute-sanitizer over the kernel tests
#   batch128   times at batch 8 and 128, with the slowest steps
#   nodes      ONNX's backend cases, from .gpu/nodes.zip (scripts/gpu-deps.sh)
#   core       graphs, pointers, streams, contexts
#   shapes     10,000 runs with random shapes, memory flat
#   racecheck  compute-sanitizer, shared memory
#   models     whole networks, every region verified
#   usage: scripts/test-gpu.sh [--seconds N] [--continue] [PART...]   (default: all, 24 minutes with the build)
# --seconds: of the whole call, build included; --continue: without the parts that have passed in earlier calls.
set -euo pipefail
declare -A limits=([kernels]=220 [batch1]=260 [memcheck]=120 [batch128]=220 [nodes]=180 [core]=60 [shapes]=90
    [racecheck]=100 [models]=120)
parts=() seconds=1440 resume=0
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) seconds=$2 && shift ;;
        --continue) resume=1 ;;
        *)
            [ -n "${limits[$1]:-}" ] || { echo "test-gpu: no part is called '$1'" >&2; exit 2; }
            parts+=("$1")
            ;;
    esac
    shift
done
[ ${#parts[@]} -gt 0 ] || parts=(kernels batch1 memcheck batch128 nodes core shapes racecheck models)
source "$(dirname "${BASH_SOURCE[0]}")/gpu-build.sh"
log=$root/build/gpu/log passed=$root/build/gpu/passed
mkdir -p "$log"
touch "$passed"

run() {
    case $1 in
        batch1) "$PLANISH_PYTHON" tests/gpu/models.py --bench --level 3 --batches 1 --profile 6 ;;
        batch128) "$PLANISH_PYTHON" tests/gpu/models.py --bench --level 3 --batches 8,128 --profile 6 \
            --models mobilenet_v2,efficientnet_b0,resnet50,convnext_tiny ;;
        memcheck | racecheck) compute-sanitizer --tool "$1" --error-exitcode 99 "$PLANISH_PYTHON" tests/gpu/kernels.py \
            --first --precision fp16,tf32 ;;
        *) "$PLANISH_PYTHON" "tests/gpu/$1.py" ;;
    esac
}
export -f run

status=0
for part in "${parts[@]}"; do
    if [ $resume = 1 ] && grep -qx "$part" "$passed"; then continue; fi
    limit=$((seconds - SECONDS))
    [ "${limits[$part]}" -gt $limit ] || limit=${limits[$part]}
    if [ $limit -lt 20 ]; then
        echo "== $part: no time left" && status=1
        continue
    fi
    start=$SECONDS code=0
    timeout -k 5 "$limit" bash -c "run $part" >"$log/$part.txt" 2>&1 || code=$?
    verdict=passed
    [ $code = 0 ] || { verdict="failed ($code)" && status=1; }
    [ $code != 124 ] || verdict="stopped after its $limit s"
    [ $code != 0 ] || grep -qx "$part" "$passed" || echo "$part" >>"$passed"
    echo "== $part: $verdict, $((SECONDS - start)) s; $(grep -c '^PASS' "$log/$part.txt" || true) lines of PASS"
    case $part in
        batch*) grep -E '^(PASS|FAIL|SKIP| )' "$log/$part.txt" | cut -c1-150 ;;
        *)
            grep -E '^FAIL|ERROR SUMMARY|Invalid|hazard' "$log/$part.txt" | cut -c1-220 | head -n 8 || true
            tail -n 1 "$log/$part.txt" | cut -c1-220
            ;;
    esac
done
[ -z "${OUT:-}" ] || cp -r "$log" "$OUT/"
exit $status
