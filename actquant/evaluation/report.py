"""A page of evaluations: what succeeds, what differs, how it fails. One HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from actquant.common.errors import EvaluationError
from actquant.common.files import write_text
from actquant.common.tables import marked
from actquant.evaluation.compare import Comparison, compare_results
from actquant.evaluation.recording import LARGEST_VIDEO_BYTES, Recording
from actquant.evaluation.result import EpisodeRecord, EvaluationResult, marks_of

MOST_VIDEOS = 24
MOST_VIDEO_BYTES = 6_000_000


class ReportSummary(BaseModel):
    """page: where it is; videos: how many of the `recordings` that the results have it holds;
    comparisons: of each further result with the first, None where `not_paired` says why not;
    marks: those of all results."""

    model_config = ConfigDict(extra="forbid")

    page: str
    bytes: int
    results: list[str]
    comparisons: list[Comparison | None]
    not_paired: list[str]
    videos: int
    recordings: int
    marks: list[str]


@dataclass(frozen=True)
class Shown:
    """One result of the page.

    name: of its file, with its marks and circumstances; action_error: text, empty if unknown;
    comparison: with the first result, None for that and where `not_paired` says why there is none.
    """

    name: str
    path: Path
    result: EvaluationResult
    action_error: str = ""
    comparison: Comparison | None = None
    not_paired: str = ""


@dataclass(frozen=True)
class Clip:
    """A recording on the page. number: of its result."""

    number: int
    episode: EpisodeRecord
    video: bytes
    about: Recording


def write_report(
    paths: Sequence[Path],
    out: Path,
    *,
    most_videos: int = MOST_VIDEOS,
    most_video_bytes: int = MOST_VIDEO_BYTES,
) -> ReportSummary:
    """Writes the page of some results; the first is what the others are compared with.

    Raises EvaluationError for what is no result, and ModuleNotFoundError where pages cannot be
    drawn.
    """
    from actquant.evaluation.page import draw

    results = [EvaluationResult.load(path) for path in paths]
    names = [
        marked(name, [*result.provenance.marks, *result.provenance.circumstances])
        for name, result in zip(_names(paths), results, strict=True)
    ]
    shown = []
    for name, path, result in zip(names, paths, results, strict=True):
        comparison, why = None, ""
        if shown:
            try:
                comparison = compare_results(result, results[0], name, names[0])
            except EvaluationError as error:
                why = str(error)
        shown.append(Shown(name, path, result, _action_error(result), comparison, why))
    kept = _recorded(shown)
    clips = _clips(shown, kept, most_videos, most_video_bytes)
    write_text(out, draw(shown, clips, len(kept)))
    return ReportSummary(
        page=str(out),
        bytes=out.stat().st_size,
        results=names,
        comparisons=[each.comparison for each in shown[1:]],
        not_paired=[each.not_paired for each in shown if each.not_paired],
        videos=len(clips),
        recordings=len(kept),
        marks=marks_of(results),
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """Names results after their files, or after their paths where files have one name."""
    stems = [path.stem for path in paths]
    names = [
        stem if stems.count(stem) == 1 else str(path)
        for stem, path in zip(stems, paths, strict=True)
    ]
    if twice := {name for name in names if names.count(name) > 1}:
        raise EvaluationError(f"{', '.join(sorted(twice))} is given twice")
    return names


def _action_error(result: EvaluationResult) -> str:
    facts = result.provenance.model_facts
    error = None if facts is None else facts.action_error
    return "" if error is None else f"{error} (n {error.n})"


def _recorded(shown: Sequence[Shown]) -> list[tuple[int, EpisodeRecord]]:
    """Returns episodes that results name a recording of, with their result's number: failures
    first, among them those whose start the other of a pair masters, the results in turns."""
    turns = []
    for number, each in enumerate(shown):
        others = shown[1:] if number == 0 else shown[:1]
        mastered = {
            (episode.task, episode.start)
            for other in others
            for episode in other.result.episodes
            if episode.success
        }
        turns.append(
            sorted(
                (
                    (e.success, (e.task, e.start) not in mastered, number, e)
                    for e in each.result.episodes
                    if e.recording
                ),
                key=lambda entry: entry[:2],
            )
        )
    in_turns = [entry for entry in chain(*zip_longest(*turns)) if entry is not None]
    return [(number, e) for _, _, number, e in sorted(in_turns, key=lambda entry: entry[:2])]


def _clips(
    shown: Sequence[Shown], kept: Sequence[tuple[int, EpisodeRecord]], most: int, most_bytes: int
) -> list[Clip]:
    clips: list[Clip] = []
    room = most_bytes
    for number, episode in kept:
        if len(clips) >= most:
            break
        clip = _clip(shown[number], number, episode)
        if clip is not None and len(clip.video) <= room:
            clips.append(clip)
            room -= len(clip.video)
    return clips


def _clip(shown: Shown, number: int, episode: EpisodeRecord) -> Clip | None:
    """Reads a recording; None for one that is gone, too large, or of another evaluation."""
    video, of = shown.path.parent / episode.recording, shown.result.provenance
    about = Recording.beside(video)
    if about is None:
        return None
    same = (about.task, about.start, about.model_sha256, about.seed, about.success) == (
        *(episode.task, episode.start, of.model_sha256, of.seed, episode.success),
    )
    try:
        if not same or video.stat().st_size > LARGEST_VIDEO_BYTES:
            return None
        content = video.read_bytes()
    except OSError:
        return None
    return Clip(number, episode, content, about) if content[4:8] == b"ftyp" else None
