"""All stages of a policy, as programs for every prompt length that the policy takes."""

from __future__ import annotations

from collections.abc import Sequence

from actquant.capture.lengths import check_length, join_lengths
from actquant.capture.rewrite.hoist import hoist
from actquant.capture.rewrite.simplify import simplify
from actquant.capture.rewrite.tabulate import STEP
from actquant.capture.stage import finish, trace
from actquant.format.schema import PolicyInterface
from actquant.policies.base import LoadedPolicy, Stage
from actquant.program.ir import Graph
from actquant.program.size import at_length


def capture_stages(loaded: LoadedPolicy) -> dict[str, Graph]:
    """Returns the stages by name, in the order in which the driver runs them.

    Sizes that follow the prompt are `capture.size.Size`. Raises UnsupportedOperatorError, naming
    operator, stage and source line, and CaptureError for what depends on the prompt's length in
    another way.
    """
    interface = loaded.interface
    lengths = capture_lengths(interface, _taken(loaded))
    declared = [loaded.family.stages(loaded, length) for length in lengths]
    first = {stage.name: _trace(stage, interface) for stage in declared[0]}
    if len(lengths) == 1:
        return _finished(declared[0], first)
    second = {
        # A copy, since what is constant over the steps moves in both captures.
        stage.name: at_length(first[stage.name], lengths[0])
        if _same_inputs(stage, before)
        else _trace(stage, interface)
        for stage, before in zip(declared[1], declared[0], strict=True)
    }
    first, second = (
        _finished(stages, graphs) for stages, graphs in zip(declared, (first, second), strict=True)
    )
    for name, graph in first.items():
        join_lengths(graph, second[name], (lengths[0], lengths[1]))
        check_length(graph, max(interface.tokenizer_min_length, 1))
    return first


def capture_lengths(interface: PolicyInterface, taken: set[int]) -> tuple[int, ...]:
    """Returns the prompt lengths to capture at: two, or one for a policy of a single length.

    taken: sizes to avoid, so that a size that follows the prompt is equal to no other.
    """
    low, high = max(interface.tokenizer_min_length, 1), interface.tokenizer_max_length
    if interface.tokenizer_json is None:
        return (0,)
    if low >= high:
        return (high,)
    every = range(high, low - 1, -1)
    free = [length for length in every if length not in taken]
    return tuple((free if len(free) > 1 else every)[:2])


def _taken(loaded: LoadedPolicy) -> set[int]:
    interface = loaded.interface
    sizes = {size for p in loaded.policy.parameters() for size in p.shape}
    return sizes | {interface.chunk_length, interface.noise_rows, len(interface.cameras)}


def _trace(stage: Stage, interface: PolicyInterface) -> Graph:
    return trace(
        stage.module,
        stage.example_inputs,
        stage.name,
        time=stage.step_time,
        timesteps=interface.sampler.timesteps if interface.sampler else (),
    )


def _same_inputs(stage: Stage, other: Stage) -> bool:
    shapes = [{k: v.shape for k, v in s.example_inputs.items()} for s in (stage, other)]
    return shapes[0] == shapes[1]


def _finished(stages: Sequence[Stage], graphs: dict[str, Graph]) -> dict[str, Graph]:
    """The graphs for the runtime; what is constant over the steps moves to the stage before."""
    before: Graph | None = None
    for stage in stages:
        graph = graphs[stage.name]
        if stage.step_inputs and before is not None:
            hoist(graph, before, (*stage.step_inputs, STEP))
            simplify(before)
            simplify(graph)
        before = graph
    return {name: finish(graph) for name, graph in graphs.items()}
