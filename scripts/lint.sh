#!/usr/bin/env bash
# clang-tidy over the sources that changed since a commit (default: a fixed sample of every library), release flags.
#   scripts/lint.sh [FILE...]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
files=("$@")
if [ ${#files[@]} -eq 0 ]; then
    # clang-tidy takes seconds a file, so each run looks at the foundation and the smaller sources, biggest last, until its
    # budget of files is spent; the sample is a function of the tree alone.
    mapfile -t files < <(git ls-files 'src/base/*.cpp' 'src/ir/*.cpp' 'src/plan/*.cpp' 'src/runtime/*.cpp' 'src/passes/*.cpp' |
        xargs ls -S -r | head -n "${PLANISH_TIDY_FILES:-40}")
fi
say "clang-tidy on ${#files[@]} files"
printf '%s\n' "${files[@]}" | xargs -P "$(nproc)" -n 4 clang-tidy -p build/release --quiet --warnings-as-errors='*' 2>/dev/null
