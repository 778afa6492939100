#!/usr/bin/env bash
# Collects what a build needs into one folder (about 32 MB), for a machine without a package source: headers of fmt, xbyak,
# FlatBuffers, nlohmann-json, xxHash and CLI11, flatc, and ONNX with protobuf from build-deps.sh. There:
#   cmake -DCMAKE_PREFIX_PATH=FOLDER -DPLANISH_DEPS_DIR=FOLDER, which is what scripts/test-gpu.sh does.
#   usage: scripts/gpu-deps.sh [FOLDER]   (default: .gpu/deps)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-$root/.gpu/deps}
deps=${PLANISH_DEPS_DIR:-$root/.deps}
rm -rf "$folder"
mkdir -p "$folder"/{include,lib/cmake/fmt,bin}
cp -rL "$deps"/{include,lib,onnx.cmake} "$folder/"
for header in fmt xbyak flatbuffers nlohmann CLI xxhash.h; do
    for prefix in /usr/local/include /usr/include; do
        [ -e "$prefix/$header" ] || continue
        cp -rL "$prefix/$header" "$folder/include/"
        break
    done
    [ -e "$folder/include/$header" ] || { echo "gpu-deps: $header is not installed: run scripts/setup.sh first" >&2; exit 1; }
done
cp "$(command -v flatc)" "$folder/bin/"
# The headers alone: CMakeLists.txt compiles fmt's source into the products.
version=$(sed -n 's/^#define FMT_VERSION \([0-9]*\)$/\1/p' "$folder/include/fmt/core.h")
version=$((version / 10000)).$((version / 100 % 100)).$((version % 100))
cat >"$folder/lib/cmake/fmt/fmt-config.cmake" <<'EOF'
add_library(fmt::fmt INTERFACE IMPORTED)
set_target_properties(fmt::fmt PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${CMAKE_CURRENT_LIST_DIR}/../../../include")
EOF
echo "set(PACKAGE_VERSION $version)
set(PACKAGE_VERSION_COMPATIBLE TRUE)" >"$folder/lib/cmake/fmt/fmt-config-version.cmake"
strip --strip-debug "$folder"/lib/*.a
du -sh "$folder"
# ONNX's cases for scripts/test-gpu.sh nodes: the package need not be there.
if python3 -c 'import onnx' 2>/dev/null; then
    python3 -W ignore "$root/tests/gpu/collect_nodes.py" "$(dirname "$folder")/nodes.zip"
fi
