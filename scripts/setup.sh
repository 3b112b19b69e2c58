#!/usr/bin/env bash
# Makes .venv with everything in it, once:
#   bash scripts/setup.sh              the package and what it needs
#   bash scripts/setup.sh test,ncnn    and these extras
#   PYTHON=python3.11 picks the interpreter, VENV=folder the environment.
# demo.sh and test.sh source this file for its functions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV="${VENV:-$PWD/.venv}"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() { printf '\033[31m%s\033[0m\n' "$*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.10 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "No Python 3.10, 3.11 or 3.12 found: install one, or name it with PYTHON=..."
}

# Libraries that nerfstudio's ns-export (open3d) and OpenCV load, and the compiler of torch.compile, by Debian package.
SYSTEM_PACKAGES="libgl1 libegl1 libgomp1 libusb-1.0-0 g++"
system_libraries() {
    local missing="" package
    command -v dpkg-query >/dev/null || return 0
    for package in $SYSTEM_PACKAGES "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    local install="apt-get install -y --no-install-recommends$missing"
    local as=""
    if [ "$(id -u)" != 0 ]; then
        as="sudo -n"
        sudo -n true 2>/dev/null || fail "System libraries are missing. Run: sudo apt-get update && sudo $install"
    fi
    say "Installing system libraries:$missing"
    { $as apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as $install >/dev/null; } \
        || fail "System libraries could not be installed. Run: $install"
}

# ns-render asks for ffmpeg; web pages are tested in Chromium, or in the Chrome that is there.
test_libraries() {
    local browser=chromium name
    for name in chromium-browser google-chrome google-chrome-stable; do
        if command -v "$name" >/dev/null; then browser=""; fi
    done
    system_libraries ffmpeg $browser
}

# The stamp holds what was installed, so that a changed requirement installs again.
wanted() { cat pyproject.toml constraints.txt; echo "$1"; }
python_environment() {
    local extras="$1" python
    if [ -f "$VENV/.installed" ] && [ "$(cat "$VENV/.installed")" = "$(wanted "$extras")" ]; then return; fi
    python="$(find_python)"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        system_libraries "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    fi
    if ! "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null; then
        system_libraries "$("$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')"
    fi
    say "Installing into $VENV ($("$python" --version), about 8 GB; minutes on a fast line)"
    [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV" || fail "$VENV cannot be created"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$extras" \
        || fail "Installation failed, see the lines above; run the command again once their cause is gone"
    wanted "$extras" >"$VENV/.installed"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    system_libraries
    python_environment "${1:+[$1]}"
    say "Everything is in $VENV"
    printf 'Use it:  source %q\n' "$VENV/bin/activate"
fi
