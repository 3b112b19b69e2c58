"""What a phone's processor is known to run, operation by operation.

None of it is a promise of the vendor's: Apple publishes no list for the Neural Engine, and NNAPI drivers differ from
phone to phone. An operation that is on neither of a processor's lists is reported as not known.
"""

from __future__ import annotations

from dataclasses import dataclass

NNAPI_SOURCE = "https://arm-software.github.io/armnn/23.08/supportlibrary.html (an NNAPI driver's own list)"


def names(words: str) -> frozenset[str]:
    """Names of operations, from a text of them."""
    return frozenset(words.split())


@dataclass(frozen=True)
class Processor:
    """One processor, and what it runs of the operations that a format's packages can hold."""

    name: str
    runs: frozenset[str]
    """Operations it runs, by the format's own names."""
    falls_back: frozenset[str]
    """Operations it leaves to a slower processor."""
    source: str
    """Where this is known from."""
    half_only: bool = False
    """Whether it computes in half precision only."""
    pads_to: int = 1
    """Its values' last axis is padded to multiples of this."""
    palette_strides: frozenset[int] | None = None
    """Strides of layers whose weights may be palettes; None: any."""

    def why_not(self, op: str, dtype: str) -> str | None:
        """Why it does not run an operation that gives values of a type; None if it does."""
        if op in self.falls_back:
            return "falls back to a slower processor"
        if self.half_only and dtype in ("fp32", "float32"):
            return "falls back: it computes in half precision only"
        return None if op in self.runs else "is not known to run there"
