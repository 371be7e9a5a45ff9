"""The model card of a policy file: what the file itself says, and what evaluations of it found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actquant_runtime.hub import HubError, HubName, parse_hub_name
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from yaml import YAMLError

from actquant.common.tables import interval, marked, megabytes, percent, printable
from actquant.evaluation.inspection import Inspection
from actquant.evaluation.result import EvaluationResult
from actquant.fidelity.self_test import Verification
from actquant.format.golden import VERIFY
from actquant.format.stored_error import StoredActionError

LIBRARY = "actquant"
BEGIN = "<!-- actquant push: {} (the next push of this file replaces what stands up to its end) -->"
END = "<!-- actquant push: end of {} -->"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class CardFacts:
    """What a card is made from.

    name: where the file will be; sha256: of the file; observation_steps: observations that the
    policy takes at a time.
    """

    name: HubName
    sha256: str
    observation_steps: int
    inspection: Inspection
    verification: Verification
    results: Sequence[EvaluationResult]

    @property
    def file(self) -> str:
        assert self.name.file is not None
        return self.name.file

    @property
    def base_model(self) -> str | None:
        """The checkpoint's repository; None where it was a folder."""
        about = self.inspection.provenance
        known = "checkpoint_revision" in about and parse_hub_name(str(about.get("checkpoint")))
        return str(about["checkpoint"]) if known else None

    @property
    def license(self) -> str | None:
        return self.inspection.provenance.get("checkpoint_license")


def make_card(facts: CardFacts, existing: str | None = None) -> ModelCard:
    """Returns the card of a repository with this file.

    existing: the repository's card so far. Its text stays, but for what an earlier push of a file
    of this name wrote; its front matter is added to, and what it says already stays.

    Raises HubError if the front matter of the existing card cannot be read.
    """
    section = _section(facts)
    if existing is None:
        card = ModelCard(
            f"---\n{{}}\n---\n\n# {_text(facts.name.repository.split('/')[1])}\n\n{section}"
        )
    else:
        try:
            card = ModelCard(existing)
        except (ValueError, TypeError, YAMLError) as error:
            raise HubError(
                f"the front matter of README.md in {facts.name.repository} cannot be read: "
                f"{' '.join(str(error).split())[:300]}; mend it there first"
            ) from error
        card.text = _with_section(card.text, facts.file, section)
    data = card.data
    assert isinstance(data, ModelCardData)
    _complete(data, facts)
    return card


def _complete(data: ModelCardData, facts: CardFacts) -> None:
    """Adds to a front matter what the file says."""
    wanted = {
        "license": facts.license,
        "library_name": LIBRARY,
        "pipeline_tag": "robotics",
        "base_model_relation": None if facts.base_model is None else "quantized",
    }
    for key, value in wanted.items():
        if value is not None and data.get(key) is None:
            data[key] = value
    data.base_model = _joined(data.base_model, facts.base_model)
    tags = [*(data.tags or []), LIBRARY, "robotics", "gguf", facts.inspection.family]
    if facts.inspection.prompt_max_tokens:
        tags.append("vision-language-action")
    data.tags = list(dict.fromkeys(tags))
    before = data.eval_results or []
    found = [each for each in before if not _is_of(each, facts.file)]
    found += [_eval_result(facts.file, result) for result in facts.results]
    data.eval_results = found or None
    if found and data.model_name is None:
        data.model_name = facts.name.repository.split("/")[1]
    elif before and not found:
        data.model_name = None  # alone it would be no part of a model-index


def _joined(old: str | list[str] | None, new: str | None) -> str | list[str] | None:
    """Returns the old names and the new one: a single one alone, as the hub's own cards have it."""
    names = [old] if isinstance(old, str) else list(old or [])
    if new is not None and new not in names:
        names.append(new)
    return names[0] if len(names) == 1 else names or None


def _is_of(result: EvalResult, file: str) -> bool:
    """Returns whether a result is one that a push of this file wrote."""
    return isinstance(result.metric_args, Mapping) and result.metric_args.get("file") == file


def _eval_result(file: str, result: EvaluationResult) -> EvalResult:
    about, rate = result.provenance, result.overall
    return EvalResult(
        task_type="robotics",
        dataset_type=about.env,
        dataset_name=", ".join(
            [
                f"{about.env}, starts {about.starts} of {len(result.tasks)} task(s)",
                *about.circumstances,
            ]
        ),
        metric_type="success_rate",
        metric_name=f"success rate of {file}",
        metric_value=rate.success_rate,
        metric_args={"file": file, "n": rate.n, "wilson95": list(rate.wilson95)},
    )


def _with_section(text: str, file: str, section: str) -> str:
    """Puts a file's section in the place of its old one, or at the end."""
    old = re.compile(
        f"{re.escape(BEGIN.format(file))}.*?{re.escape(END.format(file))}\n?", re.DOTALL
    )
    if old.search(text):
        return old.sub(lambda _: section, text, count=1)
    return f"{text.rstrip()}\n\n{section}"


def _section(facts: CardFacts) -> str:
    parts = [
        BEGIN.format(facts.file),
        f"## {_text(facts.file)}",
        _summary(facts),
        _table(("", ""), _facts(facts)),
        "### Bits",
        _table(
            ("part", "type", "tensors", "weights", "bytes", "bits per weight"),
            [
                (
                    *(group.group, group.type, str(group.n_tensors), f"{group.n_weights:,}"),
                    *(f"{group.bytes:,}", f"{group.bits_per_weight:.2f}"),
                )
                for group in facts.inspection.groups
            ],
        ),
        *_success(facts.results),
        "### Run it",
        _usage(facts),
        END.format(facts.file),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(facts: CardFacts) -> str:
    found = facts.inspection
    return (
        f"A robot policy of the family `{found.family}`, compressed by `actquant` into one GGUF of "
        f"{megabytes(found.file_bytes)} that its C++ runtime runs on a CPU, without PyTorch."
    )


def _facts(facts: CardFacts) -> list[tuple[str, str]]:
    found, about = facts.inspection, facts.inspection.provenance
    revision = about.get("checkpoint_revision")
    origin = f"`{about.get('checkpoint', UNKNOWN)}`"
    origin += f" at `{revision}`" if revision else ", a folder"
    license = facts.license or "unknown: the checkpoint's model card declared none"
    quantized = found.quantized_tensor_bpw
    return [
        ("policy", f"{found.name} (`{found.family}`), {found.parameter_count:,} parameters"),
        ("checkpoint", origin),
        ("hash of the checkpoint", f"`{about.get('checkpoint_sha256', UNKNOWN)}`"),
        ("licence of the checkpoint", license),
        ("recipe", _recipe(about)),
        ("bits per weight of the whole file", f"{found.whole_file_bpw:.3f}"),
        (
            "bits per weight of the quantized tensors",
            "none is quantized" if quantized is None else f"{quantized:.3f}",
        ),
        ("action error", _action_error(about)),
        ("proved", _proof(facts)),
        ("calibrated on", f"`{about['dataset']}`" if "dataset" in about else "no data"),
        ("control rate", "" if not found.control_rate_hz else f"{found.control_rate_hz:g} Hz"),
        ("a chunk", f"{found.chunk_length} actions, {found.steps_per_chunk} of them executed"),
        ("made by", f"{about.get('tool', UNKNOWN)}, {about.get('date', UNKNOWN)}"),
        ("SHA-256 of the file", f"`{facts.sha256}`"),
    ]


def _recipe(about: Mapping[str, Any]) -> str:
    settings = about.get("settings") or {}
    goals = {
        "bpw": "{:g} bits per weight of the whole file",
        "size_bytes": "{:,} bytes",
        "action_error": "an action error of {:g}",
    }
    goal = next((goals[key].format(settings[key]) for key in goals if settings.get(key)), None)
    return f"`{about.get('recipe', UNKNOWN)}`" + ("" if goal is None else f", for {goal}")


def _action_error(about: Mapping[str, Any]) -> str:
    error = StoredActionError.of(about)
    if error is None:
        return "not measured: it takes episodes that the policy was not calibrated on"
    return (
        f"{error} on {error.n} held-out frames: "
        "rms distance to the f32 PyTorch policy's chunks, in standard deviations of each action"
    )


def _proof(facts: CardFacts) -> str:
    count = VERIFY.get(str(facts.inspection.provenance.get("verified")))
    proof = "unknown how far when it was made"
    if count:
        proof = f"compared with PyTorch when it was made, on {count} observations new to it"
    distances = [
        f"{check.name}: mean {check.distance.mean:.2g}, worst {check.distance.worst:.2g} "
        f"(n {check.distance.n})"
        for check in facts.verification.checks
    ]
    return f"{proof}; self-test before the upload: {'; '.join(distances)}"


def _success(results: Sequence[EvaluationResult]) -> list[str]:
    if not results:
        return ["### Success", "Not evaluated in closed loop."]
    rows = []
    for result in results:
        about = result.provenance
        for name, rate in (*result.tasks.items(), ("all", result.overall)):
            rows.append(
                (
                    *(marked(about.env, about.circumstances), about.starts, name),
                    *(str(rate.n), str(rate.successes)),
                    *(percent(rate.success_rate), interval(rate.wilson95)),
                )
            )
    head = ("environment", "starts", "task", "n", "successes", "rate", "95 % (Wilson)")
    made = "; ".join(
        f"`actquant eval` of {result.provenance.date}, seed {result.provenance.seed}, "
        f"{result.provenance.steps_per_chunk} actions of a chunk executed"
        for result in results
    )
    return ["### Success", _table(head, rows), _text(made)]


def _usage(facts: CardFacts) -> str:
    found, name = facts.inspection, facts.name
    env = facts.results[0].provenance.env if facts.results else "ENVIRONMENT"
    steps = f"{facts.observation_steps}, " if facts.observation_steps > 1 else ""
    inputs = [f'        "{camera}": image,  # uint8 [{steps}H, W, 3]' for camera in found.cameras]
    if found.state:
        inputs.append(f'        "observation.state": state,  # float32 [{steps}{len(found.state)}]')
    if found.prompt_max_tokens:
        inputs.append('        "task": "what the robot shall do",')
    shape = f"[{found.chunk_length}, {len(found.action)}]"
    return "\n".join(
        [
            "```",
            "pip install 'actquant[hub]'",
            f"actquant bench {name}",
            f"actquant eval {name} --env {env} --out result.json",
            f"actquant serve {name}",
            "```",
            "",
            "```python",
            "from actquant_runtime import Runtime",
            "",
            f'runtime = Runtime("{name}")',
            "actions = runtime.act(",
            "    {",
            *inputs,
            "    }",
            f")  # float32 {shape}, in the robot's units: {', '.join(found.action)}",
            "```",
        ]
    )


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines)


def _text(text: str) -> str:
    """Returns a text that stays in its line and its cell."""
    return printable(" ".join(text.split())).replace("|", "\\|")
