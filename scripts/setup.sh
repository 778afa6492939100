#!/usr/bin/env bash
# Prepares a machine and this checkout: missing system packages, a virtual environment, the C++ dependencies, a release
# build. Run it by itself, or source it from another script, which then has the environment activated.
# Every step looks first whether there is anything to do, so that a second run takes seconds.
#   PLANISH_VENV      the virtual environment to use or make (default .venv)
#   PLANISH_DEPS_DIR  where the C++ dependencies are built once (default .deps)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
venv=${PLANISH_VENV:-$root/.venv}

quiet=()
[ -t 1 ] || quiet=(-- --quiet)  # a terminal shows progress in one line; a log would get thousands

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }

# apt_install PACKAGES...: those that are missing; without dpkg, says what is wanted.
apt_install() {
    local missing=() package
    command -v dpkg-query >/dev/null || {
        say "no dpkg here: make sure that these are installed: $*"
        return
    }
    for package in "$@"; do
        dpkg-query -W -f='${Status}\n' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing system packages: ${missing[*]}"
    local sudo=()
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    # An index of another source that cannot be reached is no reason to stop: what counts is whether the packages come.
    "${sudo[@]}" apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# pip_install STAMP WHAT ARGS...: runs pip unless the stamp says that it ran for the same arguments and files.
pip_install() {
    local stamp=$venv/.planish-$1 what=$2
    shift 2
    local key
    key=$({ echo "$@"; cat requirements-dev.txt pyproject.toml; } | sha256sum)
    [ "$(cat "$stamp" 2>/dev/null)" = "$key" ] && return
    say "installing $what into ${venv#"$root"/}"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    echo "$key" >"$stamp"
}

apt_install build-essential ccache clang-tidy flatbuffers-compiler git libcli11-dev libflatbuffers-dev libfmt-dev \
    libgmock-dev libgtest-dev libspdlog-dev libxbyak-dev libxxhash-dev nlohmann-json3-dev python3-dev python3-venv
[ -x "$venv/bin/python" ] || {
    say "creating the virtual environment ${venv#"$root"/}"
    python3 -m venv "$venv"
}
# shellcheck disable=SC1091
source "$venv/bin/activate"
export PLANISH_PYTHON=$venv/bin/python
pip_install build "the build tools" 'cmake>=3.26' ninja nanobind scikit-build-core

# The large Python packages download while the compiler works.
pip_install dev "PyTorch, ONNX Runtime and the test packages (about 5 GB the first time)" -r requirements-dev.txt &
python_packages=$!
trap 'kill $python_packages 2>/dev/null || true' EXIT

scripts/build-deps.sh
build=$root/build/release
say "building Planish (release) in build/release"
[ -f "$build/build.ninja" ] && [ "$build/CMakeCache.txt" -nt CMakePresets.json ] ||
    cmake --preset release -DPython_EXECUTABLE="$PLANISH_PYTHON" >"$root/build-configure.log" || {
        cat "$root/build-configure.log"
        exit 1
    }
rm -f "$root/build-configure.log"
cmake --build "$build" -j "$(nproc)" "${quiet[@]}"
wait "$python_packages"
trap - EXIT
export PYTHONPATH=$build/python${PYTHONPATH:+:$PYTHONPATH} PATH=$build:$PATH
