#!/usr/bin/env bash
# Builds the C++ libraries that no distribution package offers in the form needed here: ONNX 1.23.2 and the protobuf below it,
# static, position-independent, hidden symbols. Debian's own libprotobuf.a cannot be linked into a shared object.
# Both come as source distributions from the Python package index. Result: $PLANISH_DEPS_DIR, or .deps in the source tree.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prefix=${PLANISH_DEPS_DIR:-$root/.deps}
python=${PLANISH_PYTHON:-$([ -x "$root/.venv/bin/python" ] && echo "$root/.venv/bin/python" || echo python3)}
cmake=${PLANISH_CMAKE:-$([ -x "$root/.venv/bin/cmake" ] && echo "$root/.venv/bin/cmake" || echo cmake)}
jobs=${PLANISH_JOBS:-$(nproc)}

onnx=(onnx 1.23.2 008cb0467b2bbee41448acc7da8b6f4e704624cb0d327a2d5adafc7ce19bc5b8)
# protobuf 3.21.12 travels inside the source distribution of grpcio-tools: the last release line that needs no Abseil.
protobuf=(grpcio-tools 1.53.2 1b10f95d1f4af2b9d63c9beccf386b3a5e1a92f14b3f64a9a8385b6ba091e0dc)

stamp=$({ cat "${BASH_SOURCE[0]}" "$root"/cmake/deps/*; "${CXX:-c++}" -dumpfullversion; } | sha256sum | cut -c1-32)
if [ "$(cat "$prefix/stamp" 2>/dev/null)" = "$stamp" ]; then
    echo "build-deps: ONNX ${onnx[1]} is up to date in $prefix"
    exit 0
fi

mkdir -p "$prefix"
exec 9>"$prefix/.lock"
flock 9
[ "$(cat "$prefix/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
work=$prefix/work  # a fixed name, so that ccache knows the files again
rm -rf "$work" && mkdir "$work"
trap 'rm -rf "$work"' EXIT

for package in onnx protobuf; do
    declare -n spec=$package
    echo "build-deps: fetching the source distribution of ${spec[0]} ${spec[1]}"
    archive=$("$python" "$root/scripts/fetch_sdist.py" "${spec[@]}" "$work/$package" | tail -n 1)
    tar -xzf "$archive" -C "$work/$package" --strip-components=1
done

echo "build-deps: building protobuf and ONNX into $prefix (two to four minutes on two cores)"
generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
launcher=()
command -v ccache >/dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
log=$prefix/build.log
if ! { "$cmake" -S "$root/cmake/deps" -B "$work/build" "${generator[@]}" "${launcher[@]}" -DCMAKE_BUILD_TYPE=Release \
           -DONNX_SOURCE="$work/onnx" -DPROTOBUF_SOURCE="$work/protobuf/third_party/protobuf/src" \
           -DPython3_EXECUTABLE="$(command -v "$python")" -DCMAKE_INSTALL_PREFIX="$work/install" &&
       "$cmake" --build "$work/build" -j "$jobs" &&
       "$cmake" --install "$work/build"; } >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "build-deps: failed; the whole log is $log" >&2
    exit 1
fi
rm -rf "$prefix"/{include,lib,share,onnx.cmake}
mv "$work"/install/* "$prefix/"
echo "$stamp" >"$prefix/stamp"
echo "build-deps: done"
