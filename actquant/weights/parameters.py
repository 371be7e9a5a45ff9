"""Parameters that stay on disk: a policy larger than memory is built, traced and run all the same.

The module is constructed without data; each of its parameters then has a placeholder, memory that
is promised and never touched. The values are read from the checkpoint as float32, one tensor at a
time, when something needs them.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from actquant.common.errors import CheckpointError


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is read anew every time it is asked for.

    shape: of what `read` returns; float parameters are float32 whatever their type on disk.
    """

    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    dtype: torch.dtype = torch.float32

    def reshape(self, shape: Sequence[int]) -> StoredTensor:
        """Returns the same elements in another shape (one dimension may be -1), still unread."""
        known = -prod(shape) if -1 in shape else 1
        wanted = tuple(prod(self.shape) // known if d == -1 else d for d in shape)
        return StoredTensor(wanted, lambda: self.read().reshape(wanted), self.dtype)


class ParameterStore(Mapping[str, StoredTensor]):
    """Tensors by parameter name, from one or several sources."""

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = dict(tensors)

    @classmethod
    def open(cls, files: Sequence[Path]) -> ParameterStore:
        """Returns the tensors of one safetensors file, or of all shards of one.

        Raises CheckpointError for a file that is missing, damaged or cut short.
        """
        tensors: dict[str, StoredTensor] = {}
        for file in files:
            try:
                with safe_open(str(file), framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118  it is no dict
                        shape = tuple(opened.get_slice(name).get_shape())
                        tensors[name] = StoredTensor(shape, _reader(file, name))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{file} cannot be loaded: {error}") from error
        return cls(tensors)

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> ParameterStore:
        """Tensors that are in memory already."""
        return cls({name: StoredTensor(tuple(t.shape), _kept(t)) for name, t in tensors.items()})

    def __getitem__(self, name: str) -> StoredTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __or__(self, other: Mapping[str, StoredTensor]) -> ParameterStore:
        return ParameterStore({**self._tensors, **other})


def _reader(file: Path, name: str) -> Callable[[], Tensor]:
    def read() -> Tensor:
        # Opened anew each time: the pages of a mapping that stays open stay resident.
        with safe_open(str(file), framework="pt") as opened:
            return _float32(opened.get_tensor(name))

    return read


def _kept(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: _float32(tensor.detach())


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


@contextmanager
def without_data() -> Iterator[None]:
    """Parameters registered inside the block are on the device `meta`; buffers are computed.

    Unlike under `accelerate.init_empty_weights`, parameters that are tied stay tied, and a module
    that moves itself to a device while it is constructed only changes its type.
    """
    register, to = nn.Module.register_parameter, nn.Module.to

    def register_empty(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    def to_type(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        types = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)]
        return to(module, dtype=types[0]) if types else module

    nn.Module.register_parameter, nn.Module.to = register_empty, to_type  # pyright: ignore
    try:
        yield
    finally:
        nn.Module.register_parameter, nn.Module.to = register, to


def add_placeholders(module: nn.Module) -> None:
    """Gives every parameter on the device `meta` memory that costs nothing until it is touched."""
    placeholders: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.device.type != "meta":
                continue
            if id(parameter) not in placeholders:
                data = _untouched(tuple(parameter.shape))
                placeholders[id(parameter)] = nn.Parameter(data, parameter.requires_grad)
            setattr(owner, name, placeholders[id(parameter)])


def _untouched(shape: tuple[int, ...]) -> Tensor:
    """float32 in a mapping of its own, for which the kernel reserves nothing."""
    size = prod(shape) * 4
    if size == 0:
        return torch.empty(shape)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, size, flags=flags)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)


class StreamedWeights:
    """Which placeholder stands for which stored tensor of a module. Only float32 is streamed."""

    def __init__(self, module: nn.Module, store: Mapping[str, StoredTensor]) -> None:
        self._tensors: dict[int, StoredTensor] = {}
        self._parameters: dict[int, Tensor] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if name in store:
                self._tensors[parameter.data_ptr()] = store[name]
                self._parameters[parameter.data_ptr()] = parameter

    @property
    def bytes(self) -> int:
        """What all parameters take in memory as float32."""
        return sum(4 * prod(tensor.shape) for tensor in self._tensors.values())

    def find(self, tensor: Tensor) -> StoredTensor | None:
        """Returns what a parameter's placeholder stands for; None for any other tensor.

        Raises CheckpointError for a part of a placeholder: its values were never there.
        """
        if not self.owns(tensor):
            return None
        start = tensor.untyped_storage().data_ptr()
        stored = self._tensors[start]
        if tensor.data_ptr() != start or tuple(tensor.shape) != stored.shape:
            raise CheckpointError(
                f"a view {list(tensor.shape)} of a parameter {list(stored.shape)} was taken before "
                "its data was loaded"
            )
        return stored

    def owns(self, value: Any) -> bool:
        """Returns whether it is a placeholder or a view of one."""
        if not self._tensors or not isinstance(value, Tensor) or value.device.type != "cpu":
            return False
        return value.untyped_storage().data_ptr() in self._tensors

    def load(self) -> None:
        """Reads everything into the module; afterwards nothing is streamed."""
        for start, parameter in self._parameters.items():
            with torch.no_grad():
                parameter.copy_(self._tensors[start].read())
        self._tensors.clear()
        self._parameters.clear()

    def value(self, tensor: Tensor) -> Tensor:
        """Reads what a placeholder or a view of one stands for; any other tensor is returned."""
        if not self.owns(tensor):
            return tensor
        read = self._tensors[tensor.untyped_storage().data_ptr()].read().contiguous()
        return read.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def computing(self) -> TorchDispatchMode:
        """Returns a context in which the module computes with the stored values, a tensor at a
        time. Of gradients that pass through, only the placeholders stay in memory."""
        return _Substitute(self)


class _Substitute(TorchDispatchMode):
    """Replaces placeholders by what they stand for, operator by operator; views of them stay
    views."""

    def __init__(self, weights: StreamedWeights) -> None:
        super().__init__()
        self.weights = weights

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Iterable[Any] = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tuple(args), dict(kwargs or {})
        if not func.is_view:
            args, kwargs = tree_map_only(Tensor, self.weights.value, (args, kwargs))
        return func(*args, **kwargs)


class _ShapesOnly(TorchDispatchMode):
    """Operators that read a placeholder give zeros of the right shape; all others compute."""

    def __init__(self, weights: StreamedWeights) -> None:
        super().__init__()
        self.weights = weights

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Iterable[Any] = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tuple(args), dict(kwargs or {})
        leaves, _ = tree_flatten((args, kwargs))
        if func.is_view or not any(self.weights.owns(leaf) for leaf in leaves):
            return func(*args, **kwargs)
        unread, unread_named = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
        result = func(*unread, **unread_named)
        return tree_map_only(Tensor, lambda t: torch.zeros(t.shape, dtype=t.dtype), result)


def example_outputs(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in the shapes of what `module(**inputs)` returns; streamed weights stay unread."""
    weights = weights_of(module)
    shapes_only = nullcontext() if weights is None else _ShapesOnly(weights)
    with torch.no_grad(), shapes_only:
        return module(**inputs)


def attach(module: nn.Module, weights: StreamedWeights) -> None:
    """Makes `weights_of` find the weights at this module."""
    module.__dict__["streamed_weights"] = weights


def load_now(module: nn.Module) -> None:
    """Reads all streamed weights of a module into memory."""
    weights = weights_of(module)
    if weights is not None:
        weights.load()


def weights_of(module: nn.Module) -> StreamedWeights | None:
    """Returns what was attached to this module or to one within it."""
    found = (each.__dict__.get("streamed_weights") for each in module.modules())
    return next((weights for weights in found if weights is not None), None)
