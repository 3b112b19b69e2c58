"""The volume's tables apart from the graph that looks them up: converters fold constants, and float16 into float32."""

from __future__ import annotations

from copy import deepcopy

from torch import Tensor, nn

from mobiler2l_ns.export.volume_graph import Stored


class _Given(nn.Module):
    """A table that is given with each call of the graph."""

    def __init__(self, tables: list[Tensor], index: int) -> None:
        super().__init__()
        self.tables, self.index = tables, index

    def forward(self) -> Tensor:
        return self.tables[self.index]


class WithTables(nn.Module):
    """A graph that is given the volume's tables after its own inputs; without a volume, the graph as it is.

    Attributes:
        tables: (1, channels, rows, columns) each.
    """

    def __init__(self, graph: nn.Module, own: int) -> None:
        """Args: the graph, and how many inputs are its own."""
        super().__init__()
        self.graph, self.own = deepcopy(graph), own
        self.tables: list[Tensor] = []
        self._given: list[Tensor] = []
        for module in list(self.graph.modules()):
            for name, child in module.named_children():
                if isinstance(child, Stored):
                    setattr(module, name, _Given(self._given, len(self.tables)))
                    self.tables.append(child.values)

    def forward(self, *inputs: Tensor) -> Tensor:
        self._given[:] = inputs[self.own :]
        return self.graph(*inputs[: self.own])
