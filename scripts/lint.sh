#!/usr/bin/env bash
# clang-tidy with the release build's flags: scripts/lint.sh [FILE...]; without files, on a bounded sample of the tree.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
files=("$@")
if [ ${#files[@]} -eq 0 ]; then
    # clang-tidy takes some 10 s a file: what the last commits touched, newest first, bounded.
    mapfile -t files < <(git log --diff-filter=AM --name-only --format= -n 200 -- 'src/*.cpp' | awk '!seen[$0]++' |
        while read -r file; do [ -f "$file" ] && echo "$file"; done | head -n "${PLANISH_TIDY_FILES:-12}")
fi
say "clang-tidy on ${#files[@]} files"
printf '%s\n' "${files[@]}" | xargs -P "$(nproc)" -n 4 clang-tidy -p build/release --quiet --warnings-as-errors='*' 2>/dev/null  # stderr only counts suppressed warnings
