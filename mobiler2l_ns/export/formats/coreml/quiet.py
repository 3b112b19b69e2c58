"""coremltools without its chatter."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from unittest import mock


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence coremltools' log lines (eight at its import alone) and progress bars; errors still raise."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            warnings.simplefilter("ignore")
            from coremltools.converters.mil.frontend.torch import ops
            from coremltools.converters.mil.mil.passes import pass_pipeline
            from coremltools.optimize.coreml import _quantization_passes as compression

            for module, bar in ((ops, "_tqdm"), (pass_pipeline, "tqdm"), (compression, "tqdm")):
                stack.enter_context(mock.patch.object(module, bar, lambda items, *_, **__: items, create=True))
            yield
    finally:
        logger.setLevel(level)
