"""Which operations of a finished package would leave the processor they are meant for, and what each layer costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nerfstudio.utils.rich_utils import CONSOLE
from rich.table import Table
from rich.text import Text

from mobiler2l_ns.export.layer import Layer
from mobiler2l_ns.export.processor import Processor


@dataclass(frozen=True)
class Finding:
    """Operations of one kind that do not run on a processor."""

    processor: str
    op: str
    dtype: str
    count: int
    reason: str

    def __str__(self) -> str:
        return f"{self.processor}: {self.count} x {self.op} ({self.dtype}) {self.reason}"


def lint(layers: Sequence[Layer], processors: Sequence[Processor]) -> list[Finding]:
    """What would fall back, processor by processor.

    A last cast into an image is not reported: it belongs to the runtime's own output, not to the graph.
    """
    outputs = {layer.name for layer in layers[-2:] if layer.op == "cast"}
    kinds = Counter((layer.op, layer.dtype, layer.on_cpu) for layer in layers if layer.name not in outputs)
    findings = []
    for processor in processors:
        for (op, dtype, on_cpu), count in sorted(kinds.items()):
            reason = "is kept on the CPU by the package" if on_cpu else processor.why_not(op, dtype)
            if reason:
                findings.append(Finding(processor.name, op, dtype, count, reason))
    return findings


def advice(layers: Sequence[Layer], processors: Sequence[Processor]) -> list[str]:
    """What of the layers that carry the work does not suit a processor, though it may run there: values in float32,
    last axes that are padded, palettes at strides that are not known to run. One line each."""
    working = [layer for layer in layers if layer.macs]
    lines = []
    for processor in processors:
        if processor.half_only and (count := sum(layer.dtype in ("fp32", "float32") for layer in working)):
            lines.append(f"{processor.name}: {count} layers in float32, which it cannot compute: export with fp16")
        for last, count in sorted(Counter(layer.shape[-1] for layer in working).items()):
            padded = -(-last // processor.pads_to) * processor.pads_to
            if padded > last:
                lines.append(
                    f"{processor.name}: the last axis of {count} layers, {last}, is padded to {padded}: "
                    f"{1 - last / padded:.0%} of their work there is wasted"
                )
        strides = processor.palette_strides
        if strides is not None:
            odd = sorted({layer.stride for layer in working if layer.palette and layer.stride not in strides})
            lines += [f"{processor.name}: palettes at stride {stride} are not known to run there" for stride in odd]
    return lines


def print_lint(path: Path, layers: Sequence[Layer], findings: Sequence[Finding], advised: Sequence[str] = ()) -> None:
    """Print every layer with its cost, what would fall back, and what else there is to say."""
    table = Table(title=Text(str(path)))
    for column in ("operation", "gives", "type", "MMAC", "KiB"):
        table.add_column(column, justify="left" if column in ("operation", "gives", "type") else "right")
    for layer in layers:
        shape = " x ".join(map(str, layer.shape))
        macs = f"{layer.macs / 1e6:.1f}" if layer.macs else ""
        table.add_row(Text(layer.op), shape, layer.dtype, macs, f"{layer.activation_bytes / 1024:.0f}")
    CONSOLE.print(table)
    largest = max((layer.activation_bytes for layer in layers), default=0)
    total = sum(layer.macs for layer in layers)
    CONSOLE.print(f"{total / 1e9:.2f} GMAC, the largest activation {largest / 2**20:.1f} MiB")
    for finding in findings:
        CONSOLE.print(str(finding), style="yellow", markup=False)
    if not findings:
        CONSOLE.print("[green]Nothing falls back.")
    for line in advised:
        CONSOLE.print(line, style="yellow", markup=False)
