#!/usr/bin/env bash
# Passes the tests with the lowest versions that pyproject.toml allows, in an environment of its own:
#   bash scripts/lowest_versions.sh [pytest's arguments]
#   PYTHON=python3.10 picks the interpreter, VENV=folder the environment.
PYTHON="${PYTHON:-python3.10}"
VENV="${VENV:-.venv/lowest}"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
test_libraries

say "Installing into $VENV ($("$PYTHON" --version), about 8 GB)"
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV" || fail "$VENV cannot be created"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check uv
# Of what pyproject.toml names the lowest versions, of what those need the highest that go with them.
"$VENV/bin/uv" pip install --python "$VENV/bin/python" --resolution lowest-direct --editable ".[test]"

say "Tests"
exec "$VENV/bin/python" -m pytest "$@"
