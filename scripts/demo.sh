#!/usr/bin/env bash
# From a PyTorch model to predictions on photographs through a Planish plan, beside PyTorch and ONNX Runtime.
# Installs and builds what is missing first. Arguments go to examples/python/demo.py (--help shows them).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec python examples/python/demo.py "$@"
