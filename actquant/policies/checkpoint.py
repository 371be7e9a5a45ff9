"""Reading a LeRobot checkpoint folder: what all policy families share."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, NormalizationMode
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.converters import (
    batch_to_transition,
    policy_action_to_transition,
    transition_to_batch,
    transition_to_policy_action,
)
from torch import Tensor, nn
from transformers.utils import cached_file  # pyright: ignore[reportPrivateImportUsage]

from actquant.common.errors import CheckpointError
from actquant.weights.parameters import (
    ParameterStore,
    StreamedWeights,
    add_placeholders,
    attach,
    without_data,
)

STATE, ACTION = "observation.state", "action"
RANGES = {
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}
"""Modes that map a range to [-1, 1], with the names of its ends."""
ParameterNames = Callable[[list[str]], Mapping[str, str]]


def read_config(folder: Path) -> Any:
    """Returns the policy's configuration, on the CPU. Raises CheckpointError if it cannot be
    read."""
    try:
        config = PreTrainedConfig.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # draccus raises many kinds
        raise CheckpointError(f"{folder}/config.json cannot be read: {error}") from error
    config.device = "cpu"
    config.pretrained_path = None
    return config


def resolve(folder: Path, reference: str) -> str:
    """Returns a model reference relative to the checkpoint folder, if it exists there."""
    local = folder / reference
    return str(local.resolve()) if local.is_dir() else reference


def build(make: Callable[[], nn.Module], folder: Path) -> nn.Module:
    """Constructs a policy in float32 and evaluation mode, without its prints.

    Its parameters have no data yet (`actquant.parameters`): `load_weights` says where it is.
    Raises CheckpointError for a backbone that is not there and for settings that `make` refuses.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), without_data():
            policy = make()
    except OSError as error:
        raise CheckpointError(
            f"{folder}: the backbone's configuration or tokenizer is missing; put it in a folder "
            f"of the checkpoint and name that folder in config.json: {error}"
        ) from error
    except ValueError as error:
        # How LeRobot's and transformers' constructors refuse settings; they have no narrower type.
        raise CheckpointError(f"{folder}/config.json: {error}") from error
    policy = policy.float().eval().requires_grad_(False)
    add_placeholders(policy)
    return policy


def weight_files(folder: Path) -> list[Path]:
    """Returns `model.safetensors`, or the shards that its index names, in order.

    Raises CheckpointError for files that are not there.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise CheckpointError(f"{folder} has no model.safetensors")
    try:
        names_of_files = json.loads(index.read_text())["weight_map"].values()
        files = [folder / name for name in sorted(set(names_of_files))]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is no index of shards: {error}") from error
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise CheckpointError(f"{folder} lacks {', '.join(absent)}")
    return files


def weights_sha256(folder: Path) -> str:
    """Returns hash of the weights' only file, or of the hashes of its shards in order."""
    hashes = [sha256(file) for file in weight_files(folder)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def load_weights(
    policy: nn.Module,
    folder: Path,
    parameter_names: ParameterNames | None = None,
    *,
    store: ParameterStore | None = None,
) -> None:
    """Tells a policy that `build` made where its parameters are, and loads its buffers.

    parameter_names: the files' keys -> {key: name of the parameter}, for files whose keys are not
    the policy's names; keys left out are not loaded. store: the tensors, where they are not simply
    those of `weight_files`. `load_policy` decides whether the data is read now or tensor by tensor
    when it is needed.

    Raises CheckpointError listing all keys and shapes that differ.
    """
    if store is None:
        store = ParameterStore.open(weight_files(folder))
    if parameter_names is not None:
        names_of_keys = parameter_names(list(store))
        store = ParameterStore({name: store[key] for key, name in names_of_keys.items()})
    check_keys(policy, store, folder)
    parameters = {name for name, _ in policy.named_parameters(remove_duplicate=False)}
    buffers = {name: store[name].read() for name in store if name not in parameters}
    policy.load_state_dict(buffers, strict=False)
    attach(policy, StreamedWeights(policy, store))


def check_keys(
    policy: nn.Module,
    store: ParameterStore,
    folder: Path,
    *,
    lost: Iterable[str] = (),
    sizes_known: bool = True,
) -> None:
    """Raises CheckpointError listing all keys and shapes of a store that are not the policy's.

    lost: keys that an index of shards names and no shard has. Without sizes_known, no shapes.
    """
    wanted = policy.state_dict(keep_vars=True)
    present = {id(tensor) for name, tensor in wanted.items() if name in store}
    missing = {name for name, tensor in wanted.items() if id(tensor) not in present} | set(lost)
    unexpected = [name for name in store if name not in wanted]
    shapes = [
        f"{name} is {list(store[name].shape)}, wanted {list(wanted[name].shape)}"
        for name in store
        if sizes_known and name in wanted and store[name].shape != tuple(wanted[name].shape)
    ]
    if missing or unexpected or shapes:
        raise CheckpointError(
            f"the weights in {folder} do not fit config.json{' and the index' if lost else ''}\n"
            f"  missing ({len(missing)}): {', '.join(sorted(missing)) or 'none'}\n"
            f"  unexpected ({len(unexpected)}): {', '.join(sorted(unexpected)) or 'none'}\n"
            f"  of another shape ({len(shapes)}): {', '.join(sorted(shapes)) or 'none'}"
        )


def tokenizer_source(folder: Path) -> str:
    """Returns where the preprocessor's tokenizer is: the folder, a folder beside, or the hub's
    name. Raises CheckpointError, naming what is missing, if it is nowhere."""
    file = folder / "policy_preprocessor.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} has no {file.name}")
    try:
        steps = json.loads(file.read_text())["steps"]
        settings = [s["config"] for s in steps if s.get("registry_name") == "tokenizer_processor"]
        reference = settings[0]["tokenizer_name"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise CheckpointError(f"{file} names no tokenizer: {error!r}") from error
    local = resolve(folder, reference)
    if local == reference and (folder / "tokenizer.json").is_file():
        return str(folder.resolve())
    try:
        cached_file(local, "tokenizer.json")
    except OSError as error:
        raise CheckpointError(
            f"{folder}: the tokenizer {reference} has no tokenizer.json here and none in the hub's "
            f"cache; put its tokenizer.json and tokenizer_config.json into {folder}: {error}"
        ) from error
    return local


def load_processors(folder: Path, tokenizer: str | None) -> tuple[Any, Any]:
    """Returns the policy's own pre- and postprocessor, with the tokenizer taken from
    `tokenizer`."""
    overrides = {"device_processor": {"device": "cpu"}}
    if tokenizer is not None:
        overrides["tokenizer_processor"] = {"tokenizer_name": tokenizer}
    converters = (
        {"to_transition": batch_to_transition, "to_output": transition_to_batch},
        {"to_transition": policy_action_to_transition, "to_output": transition_to_policy_action},
    )
    pipelines = []
    for name, functions in zip(("pre", "post"), converters, strict=True):
        file = folder / f"policy_{name}processor.json"
        if not file.is_file():
            raise CheckpointError(f"{folder} has no {file.name}")
        try:
            steps = json.loads(file.read_text())["steps"]
            present = {step.get("registry_name") for step in steps}
            pipelines.append(
                PolicyProcessorPipeline.from_pretrained(
                    str(folder),
                    config_filename=file.name,
                    local_files_only=True,
                    overrides={k: v for k, v in overrides.items() if k in present},
                    **functions,
                )
            )
        except Exception as error:
            raise CheckpointError(f"{file} cannot be loaded: {error}") from error
    return pipelines[0], pipelines[1]


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def control_rate(folder: Path, given: float | None) -> float | None:
    """Returns the rate of actions in Hz: as given, or from `train_config.json`, or unknown."""
    if given is not None:
        return float(given)
    file = folder / "train_config.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return float(json.loads(file.read_text())["env"]["fps"])
    return None


def names(kind: str, size: int, given: Sequence[str] | None) -> tuple[str, ...]:
    """Returns names of the elements of state or action. Raises CheckpointError if their number is
    wrong."""
    if given is None:
        return tuple(f"{kind}_{i}" for i in range(size))
    if len(given) != size:
        raise CheckpointError(f"the policy's {kind} has {size} elements, {len(given)} names given")
    return tuple(given)


def find_step(pipeline: Any, attribute: str) -> Any:
    return next((step for step in pipeline.steps if hasattr(step, attribute)), None)


def raw_keys(preprocessor: Any) -> dict[str, str]:
    """Returns policy key -> observation key, where the preprocessor renames."""
    step = find_step(preprocessor, "rename_map")
    return {new: old for old, new in step.rename_map.items()} if step else {}


@dataclass(frozen=True)
class Tokenizer:
    json: str
    max_length: int
    pad_id: int

    @classmethod
    def read(cls, preprocessor: Any, max_length: int) -> Tokenizer:
        """Returns the preprocessor's tokenizer as a `tokenizer.json` without padding and
        truncation."""
        step = find_step(preprocessor, "input_tokenizer")
        if step is None or getattr(step.input_tokenizer, "backend_tokenizer", None) is None:
            raise CheckpointError("the preprocessor has no fast (tokenizer.json) tokenizer")
        content = json.loads(step.input_tokenizer.backend_tokenizer.to_str())
        content["padding"] = content["truncation"] = None
        pad_id = step.input_tokenizer.pad_token_id
        if step.max_length != max_length:
            logging.getLogger(__name__).warning(
                "the preprocessor's max_length %d is used, not config.json's %d",
                step.max_length,
                max_length,
            )
        text = json.dumps(content, ensure_ascii=False)
        return cls(text, step.max_length, 0 if pad_id is None else pad_id)


@dataclass(frozen=True)
class Normalization:
    """State in = (x − mean) / (std + eps), action out = y × std + mean."""

    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    eps: float

    @classmethod
    def read(
        cls, pre: Any, post: Any, config: Any, folder: Path, *, visual: bool = False
    ) -> Normalization:
        """Reads the normalizer steps. visual: the family normalises images in its stage `vision`;
        otherwise images that are normalised are refused.

        Raises CheckpointError naming every missing statistic.
        """
        steps = {STATE: find_step(pre, "norm_map"), ACTION: find_step(post, "norm_map")}
        features = {STATE: config.robot_state_feature, ACTION: config.action_feature}
        absent = [key for key, feature in features.items() if feature is None]
        if absent or any(step is None for step in steps.values()):
            raise CheckpointError(f"{folder}: no feature or normalizer for {absent or list(steps)}")
        images = steps[STATE].norm_map.get(FeatureType.VISUAL, NormalizationMode.IDENTITY)
        if not visual and images != NormalizationMode.IDENTITY:
            raise CheckpointError(
                f"{folder}: images normalised by {images.value} are not supported"
            )
        missing: list[str] = []
        found = {
            key: statistics(steps[key], key, features[key], missing) for key in (STATE, ACTION)
        }
        if missing:
            raise CheckpointError(
                f"{folder}: normalisation statistics are missing: {', '.join(missing)}"
            )
        eps = float(steps[STATE].eps)
        if mode(steps[STATE], features[STATE]) in RANGES:
            found[STATE] = _from_lower_end(*found[STATE], eps)
        return cls(*found[STATE], *found[ACTION], eps=eps)


def _from_lower_end(
    mean: Sequence[float], std: Sequence[float], eps: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A range of states [mean − std, mean + std] as single-precision numbers that make its lower
    end −1, as LeRobot does: pi0.5 counts bins from there, and resting joints and grippers are there
    exactly. An element that never varied is all lower end; what differs from it is far outside.
    """
    low = (np.array(mean) - np.array(std)).astype(np.float32).astype(np.float64)
    narrow = 2.0**-16 * np.maximum(1, np.abs(low))
    half = np.where(np.array(std) <= eps, narrow, std)
    centre = (low + half).astype(np.float32)
    wanted = centre - low - np.float64(np.float32(eps))
    rounded = wanted.astype(np.float32)
    rounded = np.where(rounded < wanted, np.nextafter(rounded, np.float32(np.inf)), rounded)
    return tuple(centre.tolist()), tuple(rounded.tolist())


def mode(step: Any, feature: Any) -> NormalizationMode:
    """Returns how a normalizer step treats a feature."""
    return step.norm_map.get(feature.type, NormalizationMode.IDENTITY)


def statistics(
    step: Any, key: str, feature: Any, missing: list[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns (mean, std) of an affine normalisation; ranges become centre and half width.

    Names of statistics that are not there are appended to `missing`.
    """
    kind = mode(step, feature)
    size = feature.shape[0]
    if kind == NormalizationMode.IDENTITY:
        return (0.0,) * size, (1.0,) * size
    wanted = RANGES.get(kind, ("mean", "std"))
    statistics = step.state_dict()
    lacking = [f"{key}.{name}" for name in wanted if f"{key}.{name}" not in statistics]
    if lacking:
        missing += lacking
        return (), ()
    first, second = (statistics[f"{key}.{name}"].double().reshape(-1) for name in wanted)
    if len(first) != size or len(second) != size or not torch.isfinite(first + second).all():
        missing.append(f"{key} ({len(first)} finite values of {size})")
        return (), ()
    if kind in RANGES:
        width = second - first
        width = torch.where(width == 0, step.eps, width)
        first, second = first + width / 2, width / 2
    return tuple(first.tolist()), tuple(second.tolist())


def batch(
    preprocessor: Any, cameras: Sequence[str], observations: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Turns raw observations (`policies.base.Observation`) into the policy's batch.

    A camera that an observation lacks becomes a black image with `<key>_padding_mask` false.
    Raises CheckpointError for an observation without any camera.
    """
    raw: dict[str, Any] = {
        STATE: torch.stack([_tensor(o[STATE]).float() for o in observations]),
        "task": [str(o.get("task", "")) for o in observations],
    }
    renamed = {old: new for new, old in raw_keys(preprocessor).items()}
    for camera in cameras:
        images = [_image(o.get(camera)) for o in observations]
        example = next((image for image in images if image is not None), None)
        if example is None:
            example = _example(observations, cameras)
        black = torch.zeros_like(example)
        raw[camera] = torch.stack([black if image is None else image for image in images])
        if any(image is None for image in images):
            mask = torch.tensor([image is not None for image in images])
            raw[f"{renamed.get(camera, camera)}_padding_mask"] = mask
    return preprocessor(raw)


def _example(observations: Sequence[Mapping[str, Any]], cameras: Sequence[str]) -> Tensor:
    for observation in observations:
        for camera in cameras:
            image = _image(observation.get(camera))
            if image is not None:
                return image
    raise CheckpointError(f"the observations have none of the cameras {', '.join(cameras)}")


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))


def _image(value: Any) -> Tensor | None:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in [0, 1]."""
    return None if value is None else _tensor(value).movedim(-1, -3).float() / 255.0
