"""What the commands print for people."""

from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from actquant.compare import Comparison, PairedDifference
    from actquant.demo import DemoReport
    from actquant.doctor import Report
    from actquant.evaluate import EvaluationResult, Rate
    from actquant.measure import Measurement


def table(title: str, *columns: str) -> Table:
    """Columns whose heading starts with `>` are right-aligned."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        made.add_column(column.lstrip(">"), justify="right" if column[0] == ">" else "left")
    return made


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def interval(bounds: tuple[float, float]) -> str:
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def megabytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB"


def doctor(report: "Report") -> list[Any]:
    colours = {"ok": "green", "missing": "red", "warning": "yellow"}
    shown = table("This machine", "what", "status", "found", "needed for", "remedy")
    for check in report.checks:
        status = f"[{colours[check.status]}]{check.status}[/]"
        shown.add_row(check.name, status, check.found, check.needed_for, check.remedy)
    return [shown]


def evaluation(result: "EvaluationResult") -> list[Any]:
    about = result.provenance
    shown = table(
        f"{about.model} in {about.env}, starts {about.starts}",
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
    parts: list[Any] = [shown]
    if result.latency_ms:
        latency = result.latency_ms
        parts.append(
            f"latency a chunk: p50 {latency.p50:.1f}, p95 {latency.p95:.1f}, p99 "
            f"{latency.p99:.1f}, max {latency.max:.1f} ms (n {latency.n}, {about.threads_per_job} "
            f"thread(s), {about.jobs} job(s) beside each other)"
        )
    return parts


def comparison(result: "Comparison") -> list[Any]:
    shown = table(
        f"A = {result.a}\nB = {result.b}",
        *("task", ">pairs", ">both", ">only A", ">only B", ">neither"),
        *(">A − B", ">95 %", ">McNemar p"),
    )

    def row(name: str, pair: "PairedDifference") -> None:
        counts = (pair.n, pair.both, pair.only_a, pair.only_b, pair.neither)
        shown.add_row(
            name,
            *map(str, counts),
            percent(pair.difference),
            interval(pair.difference95),
            f"{pair.mcnemar_p:.3g}",
        )

    for name, pair in result.tasks.items():
        row(name, pair)
    shown.add_section()
    row("all", result.overall)
    return [shown]


def measurement(result: "Measurement") -> list[Any]:
    shown = table("Latency and memory", "what", ">value")
    shown.add_row("load", f"{result.load_ms:.1f} ms")
    shown.add_row("latency p50", f"{result.p50_ms:.2f} ms")
    shown.add_row("latency p95", f"{result.p95_ms:.2f} ms")
    shown.add_row("inferences", str(result.n))
    shown.add_row("peak RSS", megabytes(result.peak_rss_bytes))
    shown.add_row("RSS before the model", megabytes(result.rss_before_load_bytes))
    return [shown]


def demo(report: "DemoReport") -> list[Any]:
    shown = table(
        f"{report.policy}, budget {report.bpw:g} bits per weight, starts {report.starts} of "
        f"{report.n_tasks} tasks",
        *("model", ">file", ">whole-file bpw", ">quantized bpw", ">action error"),
        *(">success", ">95 % (Wilson)", ">p50", ">p95", ">peak RSS"),
    )
    for row in report.rows:
        shown.add_row(
            row.recipe,
            megabytes(row.file_bytes),
            f"{row.whole_file_bpw:.2f}",
            f"{row.quantized_tensor_bpw:.2f}",
            f"{row.held_out_action_error:.4f}",
            f"{row.successes}/{row.n} {percent(row.success_rate)}",
            interval(row.wilson95),
            f"{row.p50_ms:.1f} ms",
            f"{row.p95_ms:.1f} ms",
            megabytes(row.peak_rss_bytes),
        )
    return [shown, f"side by side: {report.gif}"]
