"""What became of a policy when it was captured, for people and scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from actquant.capture.rewrite.fuse import fusion_report
from actquant.program.ir import Graph, Node

F32_BYTES = 4


class StageReport(BaseModel):
    """One program: how often each operator occurs, which patterns should have been one operator
    (there ought to be none), and how many values depend on the step's time alone."""

    model_config = ConfigDict(extra="forbid")

    name: str
    device_operators: dict[str, int]
    host_operators: int
    unfused: dict[str, int]
    tables: int
    table_bytes: int


class CaptureReport(BaseModel):
    """The stages, and what the file need not hold.

    tabulated_*: parameters that only the tables follow from, and their size in float32; dropped_*:
    parameters that inference never reads.
    """

    model_config = ConfigDict(extra="forbid")

    stages: list[StageReport]
    tabulated_parameters: int
    tabulated_bytes: int
    dropped_parameters: int
    dropped_bytes: int

    @property
    def table_bytes(self) -> int:
        return sum(stage.table_bytes for stage in self.stages)

    @property
    def warnings(self) -> list[str]:
        """One line for every stage in which a known pattern was not recognised."""
        return [
            f"stage {stage.name}: "
            + ", ".join(f"{count} × {pattern}" for pattern, count in stage.unfused.items())
            + " as single operators: it runs, but slower than it could"
            for stage in self.stages
            if stage.unfused
        ]


def capture_report(stages: Mapping[str, Graph], sizes: Mapping[str, int]) -> CaptureReport:
    """Reports on captured stages; sizes: elements of every parameter of the policy, by name."""
    tensors = [n for graph in stages.values() for n in graph.nodes() if n.is_tensor]
    params = {n.name for n in tensors if n.op == "param"}
    folded: set[str] = set().union(*(n.origin for n in tensors if not _is_table(n)))
    of_tables: set[str] = set().union(*(n.origin for n in tensors if _is_table(n)))
    tabulated = (of_tables - params - folded) & set(sizes)
    dropped = set(sizes) - params - folded - of_tables
    return CaptureReport(
        stages=[_stage(name, graph) for name, graph in stages.items()],
        tabulated_parameters=len(tabulated),
        tabulated_bytes=F32_BYTES * sum(sizes[name] for name in tabulated),
        dropped_parameters=len(dropped),
        dropped_bytes=F32_BYTES * sum(sizes[name] for name in dropped),
    )


def _is_table(n: Node) -> bool:
    return n.op == "const" and bool(n.name)  # no other constant has a name


def _stage(name: str, graph: Graph) -> StageReport:
    operations = graph.operations()
    tables = [n for n in graph.nodes() if _is_table(n)]
    prefix = "unfused_"
    return StageReport(
        name=name,
        device_operators=dict(Counter(n.op for n in operations if not n.host).most_common()),
        host_operators=sum(n.host for n in operations),
        unfused={
            key.removeprefix(prefix): count
            for key, count in fusion_report(graph).items()
            if key.startswith(prefix) and count
        },
        tables=len(tables),
        table_bytes=F32_BYTES * sum(n.tensor.numel() for n in tables),
    )
