"""What a deployment prints for people."""

from typing import Any

from actquant.common.tables import plain, table
from actquant.deploy.preflight import ERROR, OK, WARNING, Preflight
from actquant.deploy.report import DeploymentReport, EpisodeReport

_COLOURS = {OK: "green", WARNING: "yellow", ERROR: "red"}


def preflight(found: Preflight) -> Any:
    shown = table("Before motion", "what", "found", "verdict")
    for row in found.rows:
        shown.add_row(row.what, row.value, plain(row.verdict, _COLOURS[row.verdict]))
    return shown


def ending(report: EpisodeReport) -> str:
    frames = "" if report.dataset_frames is None else f", {report.dataset_frames} frames recorded"
    return (
        f"Episode {report.number} ended after {report.seconds:.1f} s, {report.actions} actions"
        f"{frames}: {report.ending.kind} ({report.ending.detail})"
    )


def deployment(report: DeploymentReport) -> list[Any]:
    parts: list[Any] = []
    for episode in report.episodes:
        shown = table(
            f"Episode {episode.number}: latency in ms", "part", ">n", ">p50", ">p95", ">p99", ">max"
        )
        for name, values in episode.latency_ms.items():
            numbers = (values.p50, values.p95, values.p99, values.max)
            shown.add_row(name, str(values.n), *(f"{v:.1f}" for v in numbers))
        parts.append(shown)
        parts.append(_smoothness(episode))
    jitter = report.servo_jitter
    parts.append(
        "servo: "
        + ", ".join(f"{name} {value:g}" for name, value in jitter.items())
        + f"\nevents: {report.event_log}"
    )
    return parts


def _smoothness(episode: EpisodeReport) -> str:
    refusals = ", ".join(f"{n} × {kind}" for kind, n in episode.refusals.items()) or "none"
    jerk = ", ".join(f"{name} {value:.1f}" for name, value in episode.jerk_rad_s3.items())
    return (
        f"{episode.ticks} ticks, {episode.late_ticks} missed, {episode.holds} holds, "
        f"{episode.chunks} chunks; refusals: {refusals}; rms jerk in rad/s³: {jerk or 'too short'}"
    )
