"""coremltools without its chatter and without what slows it down."""

from __future__ import annotations

import contextlib
import gc
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


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: a conversion makes hundreds of thousands of small objects, and each collection
    that they set off, and those that coremltools asks for, walks through all of torch. A third of its time."""
    enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
