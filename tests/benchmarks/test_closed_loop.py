"""The summary of a closed loop through the wire beside direct simulation."""

from argparse import Namespace

import pytest
from closed_loop import summarise

from actquant.deploy.latency import Percentiles
from actquant.deploy.report import Ending, EpisodeReport


def episode(number: int, p50: float) -> EpisodeReport:
    return EpisodeReport(
        number=number,
        ending=Ending(kind="done", detail=""),
        seconds=2.0,
        ticks=20,
        actions=19,
        chunks=5,
        holds=1,
        late_ticks=number,
        refusals={"refused": 1},
        latency_ms={"inference": Percentiles(n=5, p50=p50, p95=9, p99=9, max=9)},
        jerk_rad_s3={},
    )


def test_the_summary_pairs_starts_and_counts_by_task() -> None:
    pairs = [("pick_cube", 0), ("stack", 0), ("pick_cube", 1), ("stack", 1)]
    arguments = Namespace(
        pairs=pairs, tasks=["pick_cube", "stack"], mode="sync", starts="0:2", speed=1.0, slider=0.3
    )
    wire, direct = [True, False, True, True], [True, True, False, True]
    reports = [episode(k, p50=float(k + 1)) for k in range(4)]
    found = summarise(arguments, direct, wire, reports)
    assert (found["wire"]["successes"], found["direct"]["successes"], found["n"]) == (3, 3, 4)
    paired = found["paired"]
    assert (paired["both"], paired["only_a"], paired["only_b"]) == (2, 1, 1)
    assert paired["mcnemar_p"] == 1.0
    assert found["tasks"]["stack"] == {"wire": 1, "direct": 2, "n": 2}
    assert (found["late_ticks"], found["refusals"]) == (0 + 1 + 2 + 3, 4)
    assert found["latency_ms_of_episode_medians"]["inference"]["p50"] == pytest.approx(2.5)
    assert found["episodes"][1] == {
        "task": "stack",
        "start": 0,
        "wire": False,
        "direct": True,
        "ending": "done",
    }
