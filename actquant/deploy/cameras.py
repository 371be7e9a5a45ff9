"""`NAME=KIND:WHERE` on the command line to LeRobot's camera configurations."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from actquant.common.errors import DeployError

PREFIX = "observation.images."
EXAMPLES = (
    "zmq:HOST:PORT:CAMERA",
    "opencv:/dev/video0",
    "realsense:SERIAL",
)
_SIZES = ("width", "height", "fps")
_MESSAGE_TIMEOUT_MS = 2000


def parse_cameras(specs: Sequence[str]) -> dict[str, Any]:
    """Returns LeRobot's CameraConfig by the policy's name for each camera.

    A spec is `NAME=KIND:WHERE`, with `?width=640&height=480&fps=30` after it where the camera has a
    choice. NAME is the policy's (`observation.images.scene`) or what follows `observation.images.`
    (`scene`).

    Raises DeployError naming every spec that is wrong.
    """
    cameras: dict[str, Any] = {}
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
        except ImportError as error:
            raise DeployError(f"cameras need LeRobot, which is not installed ({error})") from error
    if wrong:
        kinds = ", ".join(EXAMPLES)
        raise DeployError("\n".join([*wrong, f"KIND:WHERE is one of {kinds}"]))
    return cameras


def _camera(where: str) -> Any:
    place, _, query = where.partition("?")
    kind, _, address = place.partition(":")
    if kind not in _KINDS:
        raise ValueError(f"there is no kind '{kind}'")
    if not address:
        raise ValueError(f"'{where}' does not say which camera")
    sizes: dict[str, Any] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _SIZES or not value.isdigit():
            raise ValueError(f"'{key}={value}': wanted {', '.join(_SIZES)} as whole numbers")
        sizes[key] = int(value)
    return _KINDS[kind](address, sizes)


def wrong_name(camera: Any) -> str:
    """Returns what is wrong with the name by which a ZMQ camera asks.

    Empty if nothing is wrong, or if it cannot be told.

    LeRobot's ZMQCamera takes the first picture of a message that has none of its name.
    """
    from lerobot.cameras.zmq import ZMQCamera

    if not isinstance(camera, ZMQCamera):
        return ""
    import zmq

    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt_string(zmq.SUBSCRIBE, "")
        socket.connect(f"tcp://{camera.server_address}:{camera.port}")
        if not socket.poll(_MESSAGE_TIMEOUT_MS):
            return ""
        sent = list(json.loads(socket.recv_string()).get("images", {}))
    if camera.camera_name in sent:
        return ""
    return (
        f"{camera.server_address}:{camera.port} sends no '{camera.camera_name}' but "
        f"{', '.join(sent)}"
    )


def _zmq(address: str, sizes: dict[str, Any]) -> Any:
    from lerobot.cameras.zmq import ZMQCameraConfig

    host, port, camera = (address.split(":") + ["", ""])[:3]
    if not (host and port.isdigit() and camera):
        raise ValueError(f"'{address}' is not HOST:PORT:CAMERA")
    return ZMQCameraConfig(server_address=host, port=int(port), camera_name=camera, **sizes)


def _opencv(address: str, sizes: dict[str, Any]) -> Any:
    from lerobot.cameras.opencv import OpenCVCameraConfig

    place = int(address) if address.isdigit() else Path(address)
    return OpenCVCameraConfig(index_or_path=place, **sizes)


def _realsense(address: str, sizes: dict[str, Any]) -> Any:
    from lerobot.cameras.realsense import RealSenseCameraConfig

    return RealSenseCameraConfig(serial_number_or_name=address, **sizes)


_KINDS: dict[str, Callable[[str, dict[str, Any]], Any]] = {
    "zmq": _zmq,
    "opencv": _opencv,
    "realsense": _realsense,
}
