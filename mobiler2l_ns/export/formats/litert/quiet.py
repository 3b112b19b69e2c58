"""LiteRT's converter and runtime without their chatter."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from unittest import mock


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what the converter and the runtime write to standard error, mostly from C++, where Python cannot.

    Standard output is left alone: a progress line of the caller's may be on it. Should something be raised, what was
    silenced is shown after all.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as silenced:
        os.dup2(silenced.fileno(), 2)
        try:
            with warnings.catch_warnings(), mock.patch.dict(os.environ, LITERT_TORCH_SHOW_PROGRESS="n"):
                warnings.simplefilter("ignore")
                yield
        except Exception:
            sys.stderr.flush()
            os.dup2(saved, 2)
            silenced.seek(0)
            sys.stderr.write(silenced.read().decode(errors="replace"))
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
