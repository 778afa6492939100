#!/usr/bin/env bash
# Whole networks on a GPU: build time, time by batch size as a captured graph, error against float32. Arguments go to
# tests/gpu/models.py: --models mobilenet_v2,resnet50 --batches 1,8,128 --precision fp16 --profile
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/gpu-build.sh"
"$PLANISH_PYTHON" tests/gpu/models.py --bench "$@"
