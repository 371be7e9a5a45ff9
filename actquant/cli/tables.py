"""What the commands print for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from actquant.common.tables import (
    NOT_COMPARABLE,
    interval,
    marked,
    megabytes,
    percent,
    plain,
    table,
)

if TYPE_CHECKING:
    from actquant.cli.demo import DemoReport
    from actquant.cli.doctor import Report
    from actquant.compression.cache import CacheReport
    from actquant.compression.report import CompressionReport
    from actquant.evaluation.bench import BenchReport, Profile, StageCost
    from actquant.evaluation.compare import Comparison, JudgedDifference
    from actquant.evaluation.inspection import Inspection
    from actquant.evaluation.plan import Plan
    from actquant.evaluation.report import ReportSummary
    from actquant.evaluation.result import EvaluationResult, Rate
    from actquant.fidelity.distance import Distance
    from actquant.fidelity.self_test import Verification
    from actquant.hub.pull import PullReport
    from actquant.hub.push import PushReport
    from actquant.sweep.sweep import SweepReport


def doctor(report: "Report") -> list[Any]:
    colours = {"ok": "green", "missing": "red", "warning": "yellow"}
    shown = table("This machine", "what", "status", "found", "needed for", "remedy")
    for check in report.checks:
        status = plain(check.status, colours[check.status])
        shown.add_row(check.name, status, check.found, check.needed_for, check.remedy)
    return [shown]


def _bits(value: float | None) -> str:
    return "none quantized" if value is None else f"{value:.3f}"


def _distance(distance: "Distance") -> str:
    limit = "not judged" if distance.limit is None else f"limit {distance.limit:.0e}"
    return f"mean {distance.mean:.3g}, worst {distance.worst:.3g} (n {distance.n}, {limit})"


def compression(report: "CompressionReport") -> list[Any]:
    shown = table(f"{report.path} by recipe {report.recipe}", "what", ">value")
    shown.add_row("file", megabytes(report.file_bytes))
    shown.add_row("whole-file bpw", f"{report.whole_file_bpw:.3f}")
    shown.add_row("quantized-tensor bpw", f"{report.quantized_tensor_bpw:.3f}")
    shown.add_row("parameters", f"{report.parameter_count:,}")
    shown.add_row("of them quantized", f"{report.quantized_parameter_count:,}")
    shown.add_row(plain("from PyTorch, in standard deviations of the actions", "bold"), "")
    if report.program_error is not None:
        shown.add_row("f32 program on golden inputs", _distance(report.program_error))
    if report.file_error is not None:
        shown.add_row("file on golden inputs", _distance(report.file_error))
    if report.held_out:
        error = report.held_out
        shown.add_row(
            "file on held-out frames: action error",
            f"mean {error.to_reference:.4f} ± {error.to_reference_standard_error:.4f}, "
            f"worst {error.worst:.3g} (n {error.n_frames})",
        )
    if report.tuning is not None:
        tuning = report.tuning
        kept = "" if tuning.kept else ", not kept"
        shown.add_row(
            "tuning, on frames apart",
            f"{tuning.error_before:.4f} to {tuning.error_after:.4f} in {tuning.steps} steps "
            f"(n {tuning.n_validation_frames}{kept})",
        )
    for remark in report.remarks:
        shown.add_row(plain("remark", "yellow"), remark)
    shown.add_row("time", f"{sum(report.timings_s.values()):.1f} s")
    shown.add_row(
        "read by no program",
        _bytes_of(report.capture.dropped_parameters, report.capture.dropped_bytes),
    )
    if report.capture.tabulated_parameters:
        shown.add_row(
            "replaced by tables per step",
            _bytes_of(report.capture.tabulated_parameters, report.capture.tabulated_bytes)
            + f" by {megabytes(report.capture.table_bytes)}",
        )
    unfused = sum(sum(stage.unfused.values()) for stage in report.capture.stages)
    shown.add_row("unfused", str(unfused))
    if report.reused:
        shown.add_row("taken from the work folder", ", ".join(report.reused))
    parts: list[Any] = [shown, _types(report), _programs(report)]
    parts += [_warned("not fused", line) for line in report.capture.warnings]
    if report.unreached:
        names = ", ".join(report.unreached)
        parts.append(
            _warned(
                "no gradient came to", f"{names}: encoded as if all their weights counted the same"
            )
        )
    return parts


def _warned(what: str, about: str) -> Text:
    return Text.assemble((f"{what} ", "yellow"), plain(about))


def _bytes_of(parameters: int, size: int) -> str:
    return f"{parameters} parameter tensors, {megabytes(size)} in f32"


def _programs(report: "CompressionReport") -> Table:
    """The operators of each stage, the frequent ones first."""
    shown = table("Programs", "stage", "device operators", ">host operators", ">tables")
    for stage in report.capture.stages:
        operators = ", ".join(f"{count} × {op}" for op, count in stage.device_operators.items())
        shown.add_row(stage.name, operators, str(stage.host_operators), str(stage.tables))
    return shown


def _types(report: "CompressionReport") -> Table:
    """Which types each layer got, and how many tensors of each."""
    shown = table("Types per layer", "layer", "types")
    layers: dict[str, dict[str, int]] = {}
    for tensor in report.tensors:
        counts = layers.setdefault(tensor.layer, {})
        counts[tensor.type] = counts.get(tensor.type, 0) + 1
    for layer, counts in layers.items():
        shown.add_row(layer, ", ".join(f"{n} × {type_}" for type_, n in counts.items()))
    return shown


def inspection(report: "Inspection") -> list[Any]:
    from actquant.evaluation.inspection import provenance_lines

    policy = table(report.path, "what", "value")
    policy.add_row("policy", f"{report.name} ({report.family})")
    steps = f", {report.sampling_steps} steps" if report.sampling_steps else ""
    policy.add_row("driver", f"{report.driver}{steps}")
    policy.add_row("parameters", f"{report.parameter_count:,}")
    policy.add_row("file", megabytes(report.file_bytes))
    policy.add_row("whole-file bpw", f"{report.whole_file_bpw:.3f}")
    policy.add_row("quantized-tensor bpw", _bits(report.quantized_tensor_bpw))
    policy.add_row("control rate", f"{report.control_rate_hz:g} Hz")
    policy.add_row("chunk", f"{report.chunk_length} actions, {report.steps_per_chunk} executed")
    policy.add_row("cameras", f"{', '.join(report.cameras)} ({report.optional_cameras} optional)")
    policy.add_row("image", f"{report.image_size[0]} × {report.image_size[1]}")
    policy.add_row("prompt", f"at most {report.prompt_max_tokens} tokens")
    policy.add_row("golden inputs", str(report.golden_inputs))
    if report.memory is not None:
        memory = report.memory
        policy.add_row(
            "peak memory of bench",
            f"{megabytes(memory.peak_rss_bytes)} (weights {megabytes(memory.weights_bytes)}, "
            f"buffers {megabytes(memory.compute_bytes)}, the process itself "
            f"{megabytes(memory.opened_bytes)})",
        )
    tensors = table("Tensors", "part", "type", ">tensors", ">weights", ">size", ">bpw")
    for group in report.groups:
        tensors.add_row(
            group.group,
            group.type,
            str(group.n_tensors),
            f"{group.n_weights:,}",
            megabytes(group.bytes),
            f"{group.bits_per_weight:.2f}",
        )
    stages = table("Stages", "stage", ">device ops", ">host ops", "inputs", "outputs")
    for stage in report.stages:
        counts = (str(stage.device_operators), str(stage.host_operators))
        stages.add_row(stage.name, *counts, _few(stage.inputs), _few(stage.outputs))
    ranges = table("Normalisation (mean, standard deviation)", "", "name", ">mean", ">std")
    for kind, statistics in (("state", report.state), ("action", report.action)):
        for name, (mean, std) in statistics.items():
            ranges.add_row(kind, name, f"{mean:.4g}", f"{std:.4g}")
    origin = table("Provenance", "what", "value")
    for key, value in provenance_lines(report.provenance):
        origin.add_row(key, value)
    return [policy, tensors, stages, ranges, origin]


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])}, … ({len(names)})"


def verification(report: "Verification") -> list[Any]:
    shown = table(report.path, "check", ">mean", ">worst", ">limit", ">n", "result")
    for check in report.checks:
        found = check.distance
        limit = "—" if found.limit is None else f"{found.limit:.0e}"
        verdict = "measured" if found.limit is None else "passed" if found.passed else "FAILED"
        mean, worst = f"{found.mean:.2e}", f"{found.worst:.2e}"
        shown.add_row(check.name, mean, worst, limit, str(found.n), verdict)
    return [shown, f"Root mean square differences of a chunk, in {report.unit}."]


def evaluation(result: "EvaluationResult") -> list[Any]:
    about = result.provenance
    shown = table(
        ", ".join([f"{about.model} in {about.place}, starts {about.starts}", *about.circumstances]),
        *("task", ">n", ">success", ">95 % (Wilson)", ">mean steps"),
    )

    def row(name: str, rate: "Rate") -> None:
        shown.add_row(
            name,
            str(rate.n),
            percent(rate.success_rate),
            interval(rate.wilson95),
            f"{rate.mean_steps:.1f}",
        )

    for name, rate in result.tasks.items():
        row(name, rate)
    shown.add_section()
    row("all", result.overall)
    parts: list[Any] = [shown, *_marks(about.marks)]
    if about.comparable:
        parts.append("By the protocol of published numbers (--comparable).")
    if result.latency_ms:
        latency = result.latency_ms
        parts.append(
            f"latency a chunk: p50 {latency.p50:.1f}, p95 {latency.p95:.1f}, p99 "
            f"{latency.p99:.1f}, max {latency.max:.1f} ms (n {latency.n}, {about.threads_per_job} "
            f"thread(s), {about.jobs} job(s) beside each other)"
        )
    if result.overall.mean_max_reward is not None:
        parts.append(f"largest reward of an episode: mean {result.overall.mean_max_reward:.3f}")
    if about.timing is not None:
        held, steps = (sum(getattr(e, of) for e in result.episodes) for of in ("held", "steps"))
        parts.append(
            f"{about.timing.scheduling}. The robot held in {held} of {steps} steps of "
            f"{about.timing.step_ms:g} ms."
        )
    for episode in result.episodes:
        if episode.failure:
            parts.append(_warned(f"{episode.task}, start {episode.start}", episode.failure))
    for missing in result.not_counted:
        parts.append(
            _warned(
                f"not counted: {missing.task}, start {missing.start}",
                f"the simulator failed {missing.attempts} times: {missing.error}",
            )
        )
    if result.not_counted:
        parts.append("The same command tries these again, and no others.")
    return parts


def _marks(marks: Sequence[str]) -> list[Text]:
    return [_warned(mark, f"{NOT_COMPARABLE}.") for mark in marks]


def comparison(result: "Comparison") -> list[Any]:
    shown = table(
        "\n".join(
            [
                f"A = {marked(result.a, result.a_circumstances)}",
                f"B = {marked(result.b, result.b_circumstances)}",
                *result.marks,
            ]
        ),
        *("task", ">pairs", ">both", ">only A", ">only B", ">neither"),
        *(">A − B", ">95 %", ">McNemar p", "verdict", ">would tell"),
    )

    def row(name: str, pair: "JudgedDifference") -> None:
        counts = (pair.n, pair.both, pair.only_a, pair.only_b, pair.neither)
        shown.add_row(
            name,
            *map(str, counts),
            percent(pair.difference),
            interval(pair.difference95),
            f"{pair.mcnemar_p:.2g}",
            pair.verdict,
            "" if pair.pairs_needed is None else f"{pair.pairs_needed:,}",
        )

    for name, pair in result.tasks.items():
        row(name, pair)
    shown.add_section()
    row("all", result.overall)
    least = result.overall.tells_from
    told = "no difference" if least is None else f"differences from {100 * least:.1f} points on"
    return [
        shown,
        *_marks(result.marks),
        f"{result.overall.n} pairs tell {told} (p < 0.05, power 80 %, if the two differ on as many "
        "starts as here); would tell: so many pairs a difference as large as the one found.",
    ]


def plan(result: "Plan") -> list[Any]:
    difference = f"{100 * result.difference:g} points"
    shown = table(
        f"To show that success is {difference} lower than {100 * result.success:g} %",
        *("episodes at hand, of each model", ">power", ">smallest difference"),
    )
    parts: list[Any] = []
    for name, design in (("same starts", result.paired), ("other starts", result.unpaired)):
        if design is None:
            continue
        parts.append(
            f"{name}: {design.episodes:,} episodes of each model (power {result.power:g}, "
            f"p < {result.significance:g})"
        )
        for found in design.at_hand:
            least = found.smallest_difference
            shown.add_row(
                f"{found.n:,}, {name}",
                percent(found.power),
                "none" if least is None else f"{100 * least:.1f} points",
            )
    why = ", as if the two had nothing in common" if result.discordance_is_assumed else ""
    parts.append(f"On {percent(result.discordance)} of the starts one alone succeeds{why}.")
    return [shown, *parts] if result.paired.at_hand else parts


def report(summary: "ReportSummary") -> list[Any]:
    parts: list[Any] = [*_marks(summary.marks)]
    parts += [_warned("not compared", why) for why in summary.not_paired]
    held = f"{summary.videos} of {summary.recordings} recordings"
    return [*parts, f"page: {summary.page}, {megabytes(summary.bytes)}, {held}"]


def measurement(result: "BenchReport") -> list[Any]:
    shown = table("Latency and memory", "what", ">value")
    shown.add_row("load", f"{result.load_ms:.1f} ms")
    shown.add_row("latency p50", f"{result.p50_ms:.2f} ms")
    shown.add_row("latency p95", f"{result.p95_ms:.2f} ms")
    shown.add_row("inferences", str(result.n))
    shown.add_row("peak RSS", megabytes(result.peak_rss_bytes))
    shown.add_row("RSS before the model", megabytes(result.rss_before_load_bytes))
    return [shown] if result.profile is None else [shown, *profile(result.profile)]


def profile(result: "Profile") -> list[Any]:
    rates = [
        f"{rate / 1e9:.0f} {'GB/s of memory' if kind == 'memory' else f'Gop/s in {kind}'}"
        for kind, rate in result.reach_per_s.items()
    ]
    shown = table(
        "Where the time of a chunk goes",
        *("stage", "operator", "kernel", ">calls", ">ms", ">at least", ">of reach", ">Gop/s"),
    )
    for stage in result.stages:
        shown.add_row(stage.stage, "all", "", "", *_times(stage), "")
    for cost in sorted(result.operators, key=lambda cost: -cost.ms):
        names = (cost.stage, cost.op, cost.kernel, str(cost.calls))
        shown.add_row(*names, *_times(cost), f"{cost.operations / max(cost.ms, 1e-9) / 1e6:.1f}")
    return [shown, "This machine reaches " + ", ".join(rates) + "."]


def _times(cost: "StageCost") -> tuple[str, str, str]:
    share = cost.least_ms / cost.ms if cost.ms else 0.0
    return f"{cost.ms:.3f}", f"{cost.least_ms:.3f}", f"{share:.0%}"


def cache(report: "CacheReport") -> list[Any]:
    shown = table(
        f"{report.folder}, {megabytes(report.bytes)}",
        *("key", "checkpoint", "dataset", ">seed", ">size", "last used (UTC)"),
    )
    for entry in report.entries:
        shown.add_row(
            *(entry.key, entry.checkpoint, entry.dataset, str(entry.seed)),
            *(megabytes(entry.bytes), entry.last_used),
        )
    removed = [f"deleted {e.key}, {megabytes(e.bytes)}" for e in report.removed]
    return [shown, *removed]


def push(report: "PushReport") -> list[Any]:
    shown = table(report.repository, "file", ">size")
    for file in report.files:
        shown.add_row(file.path, megabytes(file.bytes))
    if report.dry_run:
        end = f"would be uploaded to the branch {report.revision}, card: {report.card}"
    else:
        end = f"{report.url}, name: {report.name}"
    return [shown, end]


def pull(report: "PullReport") -> list[Any]:
    shown = table(report.repository, "file", ">size", "commit")
    shown.add_row(report.file, megabytes(report.bytes), report.commit)
    return [shown, report.path]


def sweep(report: "SweepReport") -> list[Any]:
    shown = table(
        f"{report.checkpoint}, {marked(report.env or 'no environment', report.marks)} "
        f"{report.starts}",
        *("file", ">size", ">whole-file bpw", ">action error", ">success", ">95 % (Wilson)"),
        *(">against f16",),
    )
    refused = []
    for row in report.rows:
        if row.refused:
            refused.append(_warned(row.name, row.refused))
            continue
        reference = row.against.get("f16")
        shown.add_row(
            row.name,
            megabytes(row.file_bytes),
            f"{row.whole_file_bpw:.3f}",
            "—"
            if row.action_error is None
            else f"{row.action_error:.4f} ± {row.action_error_standard_error:.4f}",
            f"{row.successes}/{row.n} {percent(row.successes / row.n)}" if row.n else "—",
            interval(row.wilson95) if row.wilson95 else "—",
            "—"
            if reference is None
            else f"{100 * reference.difference:+.1f} points, p {reference.mcnemar_p:.2g}",
        )
    return [shown, *_marks(report.marks), *refused, f"page: {report.page}"]


def demo(report: "DemoReport") -> list[Any]:
    shown = table(
        f"{report.policy}, budget {report.bpw:g} bits per weight, starts {report.starts} of "
        f"{report.n_tasks} tasks",
        *("model", ">file", ">whole-file bpw", ">action error"),
        *(">success", ">rate", ">95 % (Wilson)", ">p50", ">p95", ">peak RSS"),
    )
    for row in report.rows:
        shown.add_row(
            row.recipe.removesuffix(f"-{report.bpw:g}bpw"),
            megabytes(row.file_bytes),
            f"{row.whole_file_bpw:.2f}",
            "—" if row.held_out_action_error is None else f"{row.held_out_action_error:.4f}",
            f"{row.successes}/{row.n}",
            percent(row.success_rate),
            interval(row.wilson95),
            f"{row.p50_ms:.1f} ms",
            f"{row.p95_ms:.1f} ms",
            megabytes(row.peak_rss_bytes),
        )
    return [shown, f"side by side ({report.gif_task}, start {report.gif_start}): {report.gif}"]
