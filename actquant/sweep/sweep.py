"""Makes files by several recipes and budgets, measures all of them, and compares them in pairs.

Each file, its report and its evaluation lie in one folder, named after recipe and budget; what is
there already is taken over, so that a sweep that was stopped goes on where it was. A file that was
measured may be deleted: its report and its evaluation speak for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.progress import Progress

from actquant.calibration.dataset import load_for_dataset
from actquant.common.clock import iso_date
from actquant.common.errors import BudgetError
from actquant.common.files import hash_json, hash_path, write_text
from actquant.common.locks import sole_user
from actquant.compression.pipeline import compress
from actquant.compression.report import CompressionReport
from actquant.control.policy import model_sha256
from actquant.evaluation.compare import PairedDifference, overall_difference
from actquant.evaluation.evaluate import evaluate
from actquant.evaluation.result import EvaluationResult
from actquant.policies import LoadedPolicy
from actquant.recipes.settings import CompressionSettings
from actquant.sweep.request import REFERENCE, SweepRequest, Trial


class SweepRow(BaseModel):
    """One file: its size, how far its actions are from the f32 policy's, and how often it succeeds.

    refused: why there is no file, if the budget cannot be met. against: paired differences of
    successes to other files of the sweep, by their names.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    recipe: str
    bpw_budget: float | None
    seed: int
    refused: str = ""
    file_bytes: int = 0
    whole_file_bpw: float = 0.0
    quantized_tensor_bpw: float = 0.0
    action_error: float | None = None
    action_error_standard_error: float | None = None
    action_error_n: int = 0
    n: int = 0
    successes: int = 0
    wilson95: tuple[float, float] | None = None
    success_by_task: dict[str, tuple[int, int]] = {}
    against: dict[str, PairedDifference] = {}
    seconds: float = 0.0


class SweepReport(BaseModel):
    model_config = ConfigDict(extra="forbid")

    checkpoint: str
    dataset: str
    env: str | None
    marks: list[str] = []
    starts: str
    date: str
    machine: str
    rows: list[SweepRow]
    page: str


@dataclass(frozen=True, kw_only=True)
class Sweep(SweepRequest):
    """settings: of every compression; force: whether to replace what is there and is not ours."""

    settings: CompressionSettings
    force: bool = False

    def run(self, progress: Progress) -> SweepReport:
        """Makes and measures what is missing; writes `sweep.json` and `sweep.html` after each file.

        Raises what `check`, `compress` and `evaluate` raise, but for budgets that cannot be met:
        those are rows that say so.
        """
        self.check(force=self.force)
        with sole_user(self.out):
            return self._run(progress)

    def _run(self, progress: Progress) -> SweepReport:
        from actquant.sweep.page import write_page

        loaded: list[LoadedPolicy] = []
        trials = self.trials()
        bar = progress.add_task("sweep", total=len(trials))
        rows: list[SweepRow] = []
        report = self._report(rows)
        for trial in trials:
            rows.append(self._row(trial, loaded, progress))
            report = self._report(self._compared(rows))
            write_page(report, self._reports(rows), self.out / "sweep.html")
            write_text(self.out / "sweep.json", report.model_dump_json(indent=1))
            progress.advance(bar)
        progress.remove_task(bar)
        return report

    def _report(self, rows: list[SweepRow]) -> SweepReport:
        first = next((row for row in rows if row.n), None)
        machine, marks = "", []
        if first is not None:
            about = EvaluationResult.load(self.out / f"{first.name}.json").provenance
            machine, marks = about.machine, about.marks
        return SweepReport(
            checkpoint=str(self.checkpoint),
            dataset=str(self.dataset),
            env=self.env,
            marks=marks,
            starts=self.starts if self.env else "",
            date=iso_date(),
            machine=machine,
            rows=rows,
            page=str(self.out / "sweep.html"),
        )

    def _reports(self, rows: Sequence[SweepRow]) -> dict[str, CompressionReport]:
        return {row.name: self._kept(row.name).report for row in rows if not row.refused}

    def _row(self, trial: Trial, loaded: list[LoadedPolicy], progress: Progress) -> SweepRow:
        row = SweepRow(name=trial.name, recipe=trial.recipe, bpw_budget=trial.bpw, seed=trial.seed)
        try:
            made = self._compressed(trial, loaded, progress)
        except BudgetError as error:
            return row.model_copy(update={"refused": str(error)})
        held_out = made.held_out
        row = row.model_copy(
            update={
                "file_bytes": made.file_bytes,
                "whole_file_bpw": made.whole_file_bpw,
                "quantized_tensor_bpw": made.quantized_tensor_bpw,
                "seconds": sum(made.timings_s.values()),
                "action_error": None if held_out is None else held_out.to_reference,
                "action_error_standard_error": (
                    None if held_out is None else held_out.to_reference_standard_error
                ),
                "action_error_n": 0 if held_out is None else held_out.n_frames,
            }
        )
        return row if self.env is None else self._evaluated(row, self.env, progress)

    def _compressed(
        self, trial: Trial, loaded: list[LoadedPolicy], progress: Progress
    ) -> CompressionReport:
        """Returns the file's report, as noted where file or evaluation are there and the settings
        are the same; the file is made otherwise."""
        wanted = hash_json({**self._sources, "seed": trial.seed})
        model = self.out / f"{trial.name}.gguf"
        noted = self.out / f"{trial.name}.made.json"
        if noted.is_file():
            kept = self._kept(trial.name)
            there = model.is_file() and kept.report.file_bytes == model.stat().st_size
            measured = self.env is None or self._kept_evaluation(trial.name) is not None
            if kept.made_from == wanted and (there or (not model.exists() and measured)):
                return kept.report
        if not loaded:
            loaded.append(
                load_for_dataset(self.checkpoint, self.dataset, streamed=None, renames=self.renames)
            )
        report = compress(
            self.checkpoint,
            model,
            recipe=trial.recipe,
            dataset=self.dataset,
            bpw=trial.bpw,
            work=self.out / "work" / f"seed{trial.seed}",
            seed=trial.seed,
            settings=self.settings,
            loaded=loaded[0],
            renames=self.renames,
            progress=progress,
            force=self.force,
        )
        kept = _Made(made_from=wanted, model_sha256=model_sha256(model), report=report)
        write_text(noted, kept.model_dump_json(indent=1))
        return report

    @cached_property
    def _sources(self) -> dict[str, Any]:
        """What every file of the sweep is made from; not where it lies."""
        return {
            "settings": asdict(self.settings),
            "checkpoint": hash_path(self.checkpoint),
            "dataset": hash_path(self.dataset),
            **({"renames": dict(self.renames)} if self.renames else {}),
        }

    def _kept(self, name: str) -> _Made:
        return _Made.model_validate_json((self.out / f"{name}.made.json").read_text())

    def _kept_evaluation(self, name: str) -> EvaluationResult | None:
        """Returns the evaluation of the file as it was made, on these starts, if it is there."""
        path = self.out / f"{name}.json"
        if not path.is_file():
            return None
        result = EvaluationResult.load(path)
        of = result.provenance
        made = self._kept(name).model_sha256
        wanted = (made, self.env, self.starts, self.renames, [])
        same = (of.model_sha256, of.env, of.starts, of.renames, of.circumstances) == wanted
        return result if same else None

    def _evaluated(self, row: SweepRow, env: str, progress: Progress) -> SweepRow:
        result = self._kept_evaluation(row.name)
        if result is None:
            bar = progress.add_task(f"{row.name} in {env}", total=None)
            result = evaluate(
                self.out / f"{row.name}.gguf",
                env=env,
                starts=self.starts,
                renames=self.renames,
                out=self.out / f"{row.name}.json",
                on_episode=lambda _, done, total: progress.update(bar, completed=done, total=total),
            )
            progress.remove_task(bar)
        return row.model_copy(
            update={
                "n": result.overall.n,
                "successes": result.overall.successes,
                "wilson95": result.overall.wilson95,
                "success_by_task": {
                    task: (rate.successes, rate.n) for task, rate in result.tasks.items()
                },
            }
        )

    def _compared(self, rows: Sequence[SweepRow]) -> list[SweepRow]:
        """Every file with REFERENCE, and with the other recipes' files of the same budget."""
        found = []
        for row in rows:
            against = {
                other.name: overall_difference(
                    self.out / f"{row.name}.json", self.out / f"{other.name}.json"
                )
                for other in _comparable(row, rows)
            }
            found.append(row.model_copy(update={"against": against}))
        return found


class _Made(BaseModel):
    made_from: str
    model_sha256: str = ""  # of a folder of an earlier version: as if it were not evaluated
    report: CompressionReport


def _comparable(row: SweepRow, rows: Sequence[SweepRow]) -> Iterator[SweepRow]:
    for other in rows:
        alike = other.bpw_budget == row.bpw_budget and other.seed == row.seed
        paired = other.name != row.name and row.n and other.n
        if paired and (alike or other.name == REFERENCE):
            yield other
