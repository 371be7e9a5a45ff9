"""`NAME=KIND:WHERE` on the command line: which cameras a robot shall have."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from actquant.common.errors import DeployError

PREFIX = "observation.images."
EXAMPLES = {
    "zmq": "zmq:HOST:PORT:CAMERA",
    "opencv": "opencv:/dev/video0",
    "realsense": "realsense:SERIAL",
}
_FORMS = {"zmq": re.compile(r"[^:]+:\d+:.+")}
_SETTINGS = ("width", "height", "fps", "first_picture_s")


@dataclass(frozen=True)
class CameraSpec:
    """A camera as it was asked for.

    Attributes:
        kind: one of EXAMPLES.
        address: what follows `KIND:`.
        settings: those of `width`, `height` (pixels), `fps` and `first_picture_s` (s, for which
            its first picture is waited) that were given.
    """

    kind: str
    address: str
    settings: dict[str, int] = field(default_factory=dict)


def parse_cameras(specs: Sequence[str]) -> dict[str, CameraSpec]:
    """Returns the camera of each of the policy's names.

    A spec is `NAME=KIND:WHERE`, with `?width=640&height=480&fps=30&first_picture_s=30` or some of
    these after it. NAME is the policy's (`observation.images.scene`) or what follows
    `observation.images.` (`scene`).

    Raises DeployError naming every spec that is wrong.
    """
    cameras: dict[str, CameraSpec] = {}
    wrong = []
    for spec in specs:
        name, separator, where = spec.partition("=")
        full = name if name.startswith("observation.") else PREFIX + name
        try:
            if not separator or not name:
                raise ValueError("wanted NAME=KIND:WHERE")
            if full in cameras:
                raise ValueError(f"{full} is named twice")
            cameras[full] = _camera(where)
        except ValueError as error:
            wrong.append(f"--camera {spec}: {error}")
    if wrong:
        kinds = ", ".join(EXAMPLES.values())
        raise DeployError("\n".join([*wrong, f"KIND:WHERE is one of {kinds}"]))
    return cameras


def _camera(where: str) -> CameraSpec:
    place, _, query = where.partition("?")
    kind, _, address = place.partition(":")
    if kind not in EXAMPLES:
        raise ValueError(f"there is no kind '{kind}'")
    if not address:
        raise ValueError(f"'{where}' does not say which camera")
    if kind in _FORMS and not _FORMS[kind].fullmatch(address):
        raise ValueError(f"'{place}' is not {EXAMPLES[kind]}")
    settings: dict[str, int] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _SETTINGS or not value.isdecimal():
            raise ValueError(f"'{key}={value}': wanted {', '.join(_SETTINGS)} as whole numbers")
        settings[key] = int(value)
    return CameraSpec(kind, address, settings)
