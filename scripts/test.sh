#!/usr/bin/env bash
# Sets up .venv and passes the whole test suite: style, types, tests.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
test_libraries
python_environment "[test,fleet]"
export PATH="$VENV/bin:$PATH"

say "Style"
ruff check .
ruff format --check .
say "Types"
pyright --pythonpath "$VENV/bin/python"
say "Tests"
python -m pytest "$@"
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    say "Tests on the GPU"
    MOBILER2L_TEST_DEVICE=cuda python -m pytest -n 0 tests/cuda
fi
