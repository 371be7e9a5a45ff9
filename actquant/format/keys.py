"""The keys of docs/format.md: from ModelMetadata, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from actquant.common.errors import ModelFileError
from actquant.format.container import Key
from actquant.format.schema import (
    COEFFICIENTS,
    INTERFACE_KEYS,
    MODEL_KEYS,
    OPTIONAL_FIELDS,
    SAMPLER_KEYS,
    ModelMetadata,
    PolicyInterface,
    Sampler,
)


def key_values(metadata: ModelMetadata, reserved_bytes: Mapping[str, int]) -> Iterator[Key]:
    """Yields all keys but programs and shapes.

    reserved_bytes: the least length of a JSON text, by field.

    Raises ModelFileError for what is unknown.
    """
    interface = metadata.interface
    for keys, source in ((MODEL_KEYS, metadata), (INTERFACE_KEYS, interface)):
        for attribute, (key, kind) in keys.items():
            value = getattr(source, attribute)
            if kind == "json":
                yield key, "str", json.dumps(value).ljust(reserved_bytes.get(attribute, 0))
            elif value is not None:
                yield key, kind, value
            elif attribute not in OPTIONAL_FIELDS:
                raise ModelFileError(f"{metadata.name} cannot be written: {attribute} is unknown")
    if interface.sampler is not None:
        rows = interface.sampler.coefficients
        values = {
            "timesteps": interface.sampler.timesteps,
            "coefficients": tuple(value for row in rows for value in row),
        }
        for attribute, (key, kind) in SAMPLER_KEYS.items():
            yield key, kind, values[attribute]


def missing_keys(values: Mapping[str, Any]) -> list[str]:
    """Returns what a file with these keys lacks."""
    wanted = [
        key
        for keys in (MODEL_KEYS, INTERFACE_KEYS)
        for attribute, (key, kind) in keys.items()
        if attribute not in OPTIONAL_FIELDS and not kind.endswith("[]")
    ]
    if values.get(INTERFACE_KEYS["driver"][0]) == "sampling":
        wanted += [key for key, _ in SAMPLER_KEYS.values()]
    return [key for key in wanted if key not in values]


def decode_metadata(values: Mapping[str, Any]) -> ModelMetadata:
    """Raises ValueError or TypeError for a damaged key."""
    interface = PolicyInterface(**_decoded(INTERFACE_KEYS, values), sampler=_sampler(values))
    return ModelMetadata(interface=interface, **_decoded(MODEL_KEYS, values))


def _decoded(keys: Mapping[str, tuple[str, str]], values: Mapping[str, Any]) -> dict[str, Any]:
    result = {}
    for attribute, (key, kind) in keys.items():
        if kind.endswith("[]"):
            result[attribute] = tuple(values.get(key, ()))
        elif key in values or attribute not in OPTIONAL_FIELDS:
            result[attribute] = json.loads(values[key]) if kind == "json" else values[key]
    return result


def _sampler(values: Mapping[str, Any]) -> Sampler | None:
    """Raises ValueError if the table does not fit the steps."""
    timesteps, numbers = (tuple(values.get(key, ())) for key, _ in SAMPLER_KEYS.values())
    if not timesteps:
        return None
    if len(numbers) != COEFFICIENTS * len(timesteps):
        raise ValueError(
            f"{len(numbers)} sampler coefficients for {len(timesteps)} steps; "
            f"{COEFFICIENTS} a step are needed"
        )
    rows = (numbers[i : i + COEFFICIENTS] for i in range(0, len(numbers), COEFFICIENTS))
    return Sampler(timesteps, tuple(rows))
