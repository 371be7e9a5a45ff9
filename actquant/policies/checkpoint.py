"""Reading a LeRobot checkpoint folder: what all policy families share."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lerobot
import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from torch import Tensor, nn
from transformers.utils import cached_file  # pyright: ignore[reportPrivateImportUsage]

from actquant.common.errors import CheckpointError, brief
from actquant.policies.adapter import base_folder
from actquant.policies.normalization import STATE
from actquant.policies.processors import raw_keys
from actquant.policies.stored_weights import open_weights
from actquant.weights.parameters import (
    ParameterStore,
    StreamedWeights,
    add_placeholders,
    attach,
    without_data,
)

ParameterNames = Callable[[list[str]], Mapping[str, str]]


def read_config(folder: Path) -> Any:
    """Returns the policy's configuration, on the CPU. Raises CheckpointError if it cannot be
    read."""
    try:
        config = PreTrainedConfig.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # draccus raises many kinds
        raise CheckpointError(
            f"{folder}/config.json cannot be read by LeRobot {lerobot.__version__}: "
            f"{brief(error)}; what another version wrote has to be adapted"
        ) from error
    config.device = "cpu"
    config.pretrained_path = None
    return config


def find_model(folder: Path, reference: str, *, what: str = "backbone") -> str:
    """Returns the folder of a backbone or a tokenizer that a checkpoint refers to, or its name on
    the hub.

    Raises CheckpointError, saying where it belongs, if it is neither here nor in the hub's cache
    nor to be fetched.
    """
    for local in (folder / reference, base_folder(folder) / reference, Path(reference)):
        if local.is_dir():
            return str(local.resolve())
    file = "tokenizer_config.json" if what == "tokenizer" else "config.json"
    try:
        cached_file(reference, file)
    except OSError as error:
        needed = "tokenizer.json and tokenizer_config.json" if what == "tokenizer" else file
        raise CheckpointError(
            f"{folder}: the {what} {reference} is no folder of the checkpoint, not in the hub's "
            f"cache, and cannot be fetched; put its {needed} into {folder / reference}"
        ) from error
    return reference


def build(make: Callable[[], nn.Module], folder: Path) -> nn.Module:
    """Constructs a policy in float32 and evaluation mode, without its prints.

    Its parameters have no data yet (`actquant.parameters`): `load_weights` says where it is.
    Raises CheckpointError for a backbone that is not there and for settings that `make` refuses.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), without_data():
            policy = make()
    except OSError as error:
        raise CheckpointError(f"{folder}: the backbone cannot be read: {brief(error)}") from error
    except ValueError as error:
        # How LeRobot's and transformers' constructors refuse settings; they have no narrower type.
        raise CheckpointError(f"{folder}/config.json: {error}") from error
    policy = policy.float().eval().requires_grad_(False)
    add_placeholders(policy)
    return policy


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
    those of `open_weights`. `load_policy` decides whether the data is read now or tensor by tensor
    when it is needed.

    Raises CheckpointError listing all keys and shapes that differ.
    """
    if store is None:
        store = open_weights(folder)
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
