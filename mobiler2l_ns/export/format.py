"""What there is to say of a format of packages: each folder of ``formats`` holds one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mobiler2l_ns.export.clients.kind import ClientKind
from mobiler2l_ns.export.contract import Contract, Runner
from mobiler2l_ns.export.extra import Extra
from mobiler2l_ns.export.graph import Graph
from mobiler2l_ns.export.layer import Layer
from mobiler2l_ns.export.processor import Processor
from mobiler2l_ns.student.renderer import Student

FLOAT_OUTPUT = "image, float32 (1, channels, height, width), 0..1"


@dataclass(frozen=True, kw_only=True)
class Format(ABC):
    """How one kind of package is written, run and used.

    The module that makes one imports no converter and no runtime: methods do, when they are called.
    """

    name: str
    """What it is asked for by: the name of its folder."""
    suffix: str
    """Of the file's or folder's name."""
    title: str
    """What it is for, in one line."""
    thresholds: Mapping[str, float]
    """Precisions on offer, the default one first, and the least PSNR in dB to the student each must reach."""
    run_by: str
    """What runs the proof; a runner of which only a part may run here says so in a ``run_by`` of its own."""
    output: str = FLOAT_OUTPUT
    """What a client gets."""
    layout: str = "NCHW"
    """Axes of an encoding and of a picture, as a client sees them; CHW has no batch axis at all."""
    contracts: tuple[Contract, ...] = ("pose", "encoding", "features")
    """What its packages can be asked with, the default first; of one student see ``contracts_of``."""
    looks_up: bool = True
    """Whether its operations can look up a student's volume; if not, the client does, and gives the features."""
    holds_depth: bool = False
    """Whether its packages can give depth as a second output."""
    holds_functions: bool = False
    """Whether one package holds several sizes, sharing weights."""
    function_is: str = "function"
    """What its clients call one of several sizes."""
    timed: bool = True
    """Whether the proof's runtime tells anything about time."""
    stands_alone: bool = False
    """Whether it is a folder to be used by itself: it has a manifest inside and, unless sizes are asked for, all that
    the student has learned."""
    extra: Extra | None = None
    """Python packages that only it needs."""
    clients: tuple[ClientKind, ...] = ()
    """Code that uses a package."""
    processors: tuple[Processor, ...] = ()
    """What is known of the processors that a package can run on."""
    order: float = 100.0
    """Formats are listed by this, and then by name."""

    @property
    def precision(self) -> str:
        """The default precision."""
        return next(iter(self.thresholds))

    def contracts_of(self, student: Student) -> tuple[Contract, ...]:
        """What packages of a student can be asked with, the default first."""
        left_out = {"features"} if student.volume is None else {"encoding"} if self.looks_up else {"encoding", "pose"}
        return tuple(contract for contract in self.contracts if contract not in left_out)

    @abstractmethod
    def convert(self, graphs: Mapping[str, Graph], path: Path, precision: str, metadata: dict[str, str]) -> None:
        """Write a package.

        Args:
            graphs: by the name of their function, one and the same contract; one alone unless ``holds_functions``.
            path: of the file or folder, which is not there yet.
            precision: one of ``thresholds``.
            metadata: stored in the package.
        """

    @abstractmethod
    def open(self, path: Path, function: str) -> Runner:
        """A function of a package in its runtime."""

    def input_dtype(self, graph: Graph, precision: str) -> str:
        """What a package at a precision wants its inputs in."""
        return "float32"

    def layers(self, path: Path, function: str) -> list[Layer]:
        """The operations of a function of a package, in order; none where it is no graph but carries kernels of its
        own."""
        return []

    def finish(self, path: Path) -> None:
        """The last step for a package that stands alone, when all else is in it."""
        return

    def missing(self) -> str | None:
        """What to install before this format can be written; None if nothing is missing."""
        return None if self.extra is None else self.extra.missing()


def single(graphs: Mapping[str, Graph]) -> Graph:
    """The graph of a package that holds but one."""
    (graph,) = graphs.values()
    return graph
