"""What `actquant eval` finds, with everything that is needed to repeat it.

`python -m actquant.evaluation.result` prints the JSON schema, which docs/result.schema.json holds.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from actquant import __version__
from actquant.common.errors import EvaluationError
from actquant.common.paths import require_file
from actquant.common.statistics import wilson95
from actquant.common.tables import marked
from actquant.evaluation.timing import Timing
from actquant.format.stored_error import StoredActionError

SCHEMA_VERSION = 3
DISTRIBUTIONS = ("numpy", "mujoco", "gymnasium", "lerobot", "torch")
"""What an evaluation may depend on beside actquant and its environment, if it is installed."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Rate(_Record):
    """Successes of the n episodes that count.

    mean_max_reward: of the largest reward of each episode; None where the environment gives none.
    """

    n: int
    successes: int
    success_rate: float
    wilson95: tuple[float, float]
    mean_steps: float
    mean_steps_of_successes: float | None
    mean_max_reward: float | None = None


class EpisodeRecord(_Record):
    """One episode that counts.

    failure: why the policy could not act until the end, e.g. that it gave NaN; empty for an episode
    that ended as the environment says. recording: its video, relative to the result's folder; empty
    if none was kept. held: steps in which the robot stood still for want of an action. max_reward,
    sum_reward: of all steps, None where the environment gives none.
    """

    task: str
    start: int
    success: bool
    steps: int
    failure: str = ""
    recording: str = ""
    held: int = 0
    max_reward: float | None = None
    sum_reward: float | None = None


class UncountedEpisode(_Record):
    """An episode that the simulator did not bring to its end, however often it was tried: no
    failure of the policy, and part of no rate."""

    task: str
    start: int
    attempts: int
    error: str


class Latency(_Record):
    """Observation in, action chunk out; measured beside the simulation, in ms.

    percentiles: the 0th to the 100th; none in results of schema version 1.
    """

    p50: float
    p95: float
    p99: float
    max: float
    n: int
    percentiles: list[float] = []


class ModelFacts(_Record):
    """What was evaluated. The bits and the recipe of a checkpoint folder are not known.

    action_error: what the file says of itself.
    """

    name: str
    bytes: int
    whole_file_bpw: float | None
    quantized_tensor_bpw: float | None
    recipe: str
    action_error: StoredActionError | None = None


class Conventions(_Record):
    """How policy and environment spoke with each other.

    noise: what the noise of a chunk follows from; scheduling: when a chunk is asked for.
    """

    control_rate_hz: float | None
    observation_steps: int
    chunk_length: int
    cameras: list[str]
    state_names: list[str]
    action_names: list[str]
    noise_shape: list[int]
    noise: str = "seed, task, start, number of the chunk"
    scheduling: str = "sync: the simulation waits for each chunk"


class Provenance(_Record):
    """How the result came about. What has a default was not noted in schema version 1, timing and
    perturb not in version 2.

    timing: what passes in the simulation while the policy thinks, None for nothing; perturb: kind
    -> level, above 0, of what was otherwise than in training; env_options: of LeRobot's
    environment, as given; environment: conventions of the simulation. marks: what nobody may
    overlook who reads a number from the result, e.g. "stand-in visuals". comparable: whether
    everything was done, every episode counted, by the protocol that published numbers of the
    environment follow.
    """

    schema_version: int = 1
    actquant_version: str
    model: str
    model_sha256: str
    model_facts: ModelFacts | None = None
    env: str
    tasks: list[str] = []
    starts: str
    seed: int
    steps_per_chunk: int
    grey_camera: str | None
    renames: dict[str, str] = Field(default_factory=dict)
    wrong_instruction: bool = Field(
        validation_alias=AliasChoices("wrong_instruction", "wrong_colour")
    )
    timing: Timing | None = None
    perturb: dict[str, int] = Field(default_factory=dict)
    env_options: dict[str, str] = Field(default_factory=dict)
    conventions: Conventions | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    marks: list[str] = []
    comparable: bool = False
    jobs: int
    threads_per_job: int
    device: str = "cpu"
    machine: str
    versions: dict[str, str] = Field(default_factory=dict)
    command: list[str] = []
    date: str

    @property
    def place(self) -> str:
        """The environment's name as every table shows it, with the marks."""
        return marked(self.env, self.marks)

    def same_but(self, *left_out: str) -> str:
        """Returns as a text what was evaluated and how, but for some fields: alike in two results
        that differ in these alone."""
        kept = {"model_sha256", "env", "marks", "tasks", "starts", "seed", "steps_per_chunk"}
        kept |= {"grey_camera", "renames", "wrong_instruction", "timing", "perturb", "env_options"}
        return self.model_dump_json(include=kept - set(left_out))

    @property
    def perturbed(self) -> str:
        """What was otherwise than in training, e.g. `camera=1, light=2`."""
        return ", ".join(f"{kind}={level}" for kind, level in self.perturb.items())

    @property
    def circumstances(self) -> list[str]:
        """What else every table says of how the result was found: options of the environment, what
        was perturbed, and the time that passed while the policy thought."""
        options = ", ".join(f"{key}={value}" for key, value in self.env_options.items())
        perturbed = f"perturbed {self.perturbed}" if self.perturb else ""
        return [text for text in (options, perturbed, str(self.timing or "")) if text]


class EvaluationResult(_Record):
    """The result of `actquant eval`."""

    tasks: dict[str, Rate]
    overall: Rate
    latency_ms: Latency | None
    episodes: list[EpisodeRecord]
    not_counted: list[UncountedEpisode] = []
    provenance: Provenance

    @classmethod
    def load(cls, path: Path) -> "EvaluationResult":
        """Raises EvaluationError if the file is missing or is no evaluation result."""
        path = require_file(path, "a result of `actquant eval`", EvaluationError)
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise EvaluationError(
                f"{path} is no evaluation result: {where}{': ' if where else ''}{first['msg']}"
            ) from error


def marks_of(results: Iterable[EvaluationResult]) -> list[str]:
    """Returns the marks of all results."""
    return list(dict.fromkeys(mark for each in results for mark in each.provenance.marks))


def rate(episodes: Sequence[EpisodeRecord]) -> Rate:
    """Success rate of at least one episode."""
    successes = [episode for episode in episodes if episode.success]
    rewards = [episode.max_reward for episode in episodes if episode.max_reward is not None]
    return Rate(
        n=len(episodes),
        successes=len(successes),
        success_rate=len(successes) / len(episodes),
        wilson95=wilson95(len(successes), len(episodes)),
        mean_steps=float(np.mean([episode.steps for episode in episodes])),
        mean_steps_of_successes=(
            float(np.mean([episode.steps for episode in successes])) if successes else None
        ),
        mean_max_reward=float(np.mean(rewards)) if rewards else None,
    )


def latency(values_ms: Sequence[float]) -> Latency | None:
    """Summarises latencies; None if there is none."""
    if not len(values_ms):
        return None
    percentiles = np.percentile(values_ms, np.arange(101))
    return Latency(
        p50=percentiles[50],
        p95=percentiles[95],
        p99=percentiles[99],
        max=percentiles[100],
        n=len(values_ms),
        percentiles=[round(float(value), 3) for value in percentiles],
    )


def versions(*distributions: str) -> dict[str, str]:
    """Returns the versions of Python, actquant, and of those of DISTRIBUTIONS and of
    `distributions` that are installed."""
    found = dict(python=sys.version.split()[0], actquant=__version__)
    for name in (*distributions, *DISTRIBUTIONS):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def schema() -> str:
    """Returns the JSON schema of a result, as a text."""
    made = EvaluationResult.model_json_schema(mode="serialization")
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
    return json.dumps(made, indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema())
