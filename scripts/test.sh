#!/usr/bin/env bash
# Sets up .venv and passes the whole test suite: style, types, tests.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
test_libraries
python_environment "[test]"
export PATH="$VENV/bin:$PATH"

say "Style"
ruff check .
ruff format --check .
say "Types"
pyright --pythonpath "$VENV/bin/python"
say "Tests"
exec python -m pytest "$@"
