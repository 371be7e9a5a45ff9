"""A robot's ROS through rosbridge's websocket: JSON by version 2 of its protocol, as ROS 2 has it.

For a computer without ROS, or with one of another Python. Nothing is asked for that a server may
answer in fragments, PNG or CBOR.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from actquant.common.errors import RosError
from actquant.ros.link import Subscription
from actquant.ros.messages import JOINT_TRAJECTORY, STRING, Trajectory

MOST_MESSAGE_BYTES = 64 << 20
OPEN_S = 5.0
"""How long connecting may take."""
KEEPALIVE_S = 5.0
RETRY_S = (0.2, 2.0)
"""How long to wait before connecting again: at first, and at most."""
REFUSED_S = 3.0
"""How long a topic is left alone that the bridge has refused."""
ASK_AGAIN_S = 1.0
TYPE_OF = "/rosapi/topic_type"
"""The service that says what a topic carries: rosbridge's launch file starts it beside the server,
which tells its clients of no error itself (rosbridge_suite of ROS 2)."""


class RosbridgeLink:
    """A client of rosbridge that connects again when the bridge goes away.

    url: ws://HOST:PORT; tell: called with what the bridge says of errors; throttle_ms: shortest
    time from one picture to the next.
    """

    def __init__(self, url: str, tell: Callable[[str], None], throttle_ms: int = 0) -> None:
        """Raises ModuleNotFoundError where websockets is not installed."""
        import websockets.sync.client  # noqa: F401

        self._url, self._tell, self._throttle_ms = url, tell, throttle_ms
        self._lock = threading.Lock()
        self._connection: Any = None
        self._trouble = ""
        self._words: dict[str, tuple[str, float]] = {}
        self._types: dict[str, str] = {}
        self._asked_s: dict[str, float] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rosbridge", daemon=True)

    def open(self, subscriptions: list[Subscription], trajectories: list[str], status: str) -> None:
        """Connects, subscribes and advertises. Raises RosError where no bridge answers."""
        self._subscriptions, self._status = subscriptions, status
        self._topics = {*(wanted.topic for wanted in subscriptions), *trajectories, status}
        self._hello = [
            *(
                {"op": "advertise", "topic": topic, "type": JOINT_TRAJECTORY}
                for topic in trajectories
            ),
            {"op": "advertise", "topic": status, "type": STRING},
            *(self._subscribe(wanted) for wanted in subscriptions),
            *(_question(topic) for topic in trajectories),
        ]
        self._connection = self._connect()
        self._thread.start()

    def _subscribe(self, wanted: Subscription) -> dict[str, Any]:
        message: dict[str, Any] = {"op": "subscribe", "topic": wanted.topic, "type": wanted.type}
        if wanted.is_picture:
            message |= {"queue_length": 1, "throttle_rate": self._throttle_ms}
        return message

    def trouble(self) -> str:
        """Says why there is no connection."""
        with self._lock:
            return self._trouble

    def about(self, subscription: Subscription) -> str:
        """Says what the bridge has said of a topic, or what it carries as far as rosapi knows."""
        topic = subscription.topic
        now = time.monotonic()
        if now - self._asked_s.get(topic, 0.0) > ASK_AGAIN_S:
            self._asked_s[topic] = now
            with suppress(RosError):
                self._send(_question(topic))
        with self._lock:
            carried = self._types.get(topic)
        if carried == "":
            return "nobody publishes it"
        if carried is not None and carried != subscription.type:
            return f"it carries {carried}"
        return self._word(topic)

    def send(self, trajectories: Mapping[str, Trajectory]) -> None:
        """Publishes trajectories with a time of 0 in their headers: they begin at once.

        Raises RosError without a connection, for a topic that carries something else, and with what
        the bridge has said of one; nothing is published then.
        """
        with self._lock:
            carried = {topic: self._types.get(topic) or JOINT_TRAJECTORY for topic in trajectories}
        for topic, kind in carried.items():
            if kind != JOINT_TRAJECTORY:
                raise RosError(f"{topic} carries {kind}, no {JOINT_TRAJECTORY}")
            if word := self._word(topic):
                raise RosError(f"the bridge does not take {topic}: {word}")
        for topic, trajectory in trajectories.items():
            self._publish(topic, _as_json(trajectory))

    def say(self, text: str) -> None:
        """Publishes a std_msgs/msg/String, if there is a connection."""
        with suppress(RosError):
            self._publish(self._status, {"data": text})

    def close(self) -> None:
        """Hangs up."""
        self._closing.set()
        with self._lock:
            connection = self._connection
        if connection is not None:
            connection.close()
        if self._thread.is_alive():
            self._thread.join(OPEN_S)

    def _word(self, topic: str) -> str:
        with self._lock:
            word, when = self._words.get(topic, ("", 0.0))
        return word if time.monotonic() - when < REFUSED_S else ""

    def _publish(self, topic: str, message: dict[str, Any]) -> None:
        self._send({"op": "publish", "topic": topic, "msg": message})

    def _send(self, message: dict[str, Any]) -> None:
        from websockets.exceptions import ConnectionClosed

        with self._lock:
            connection, trouble = self._connection, self._trouble
        if connection is None or trouble:
            raise RosError(trouble or f"there is no connection to {self._url}")
        try:
            connection.send(json.dumps(message))
        except (ConnectionClosed, OSError) as error:
            raise RosError(f"the bridge at {self._url} is gone: {error}") from error

    def _connect(self) -> Any:
        from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
        from websockets.sync.client import connect

        try:
            connection = connect(
                self._url,
                open_timeout=OPEN_S,
                close_timeout=1.0,
                ping_interval=KEEPALIVE_S,
                ping_timeout=KEEPALIVE_S,
                compression=None,
                max_size=MOST_MESSAGE_BYTES,
            ).__enter__()  # websockets warns of connections outside `with`; `close` ends this one
        except InvalidURI as error:
            raise RosError(f"{self._url!r} is no address such as ws://HOST:9090") from error
        except (InvalidHandshake, OSError) as error:
            raise RosError(f"no rosbridge at {self._url}: {error}") from error
        try:
            for message in self._hello:
                connection.send(json.dumps(message))
        except (ConnectionClosed, OSError) as error:
            connection.close()
            raise RosError(f"{self._url} hung up: {error}") from error
        return connection

    def _run(self) -> None:
        """Hears until `close`, and connects again whenever the connection has ended."""
        while not self._closing.is_set():
            try:
                reason = self._hear_all(self._connection)
            except Exception as error:  # whatever came, the next connection may be better
                reason = f"{type(error).__name__}: {error}"
                self._connection.close()
            with self._lock:
                self._trouble = f"the bridge at {self._url} is gone: {reason}"
            wait_s, longest_s = RETRY_S
            while not self._closing.wait(wait_s):
                try:
                    connection = self._connect()
                except RosError:
                    wait_s = min(2 * wait_s, longest_s)
                    continue
                with self._lock:
                    self._connection, self._trouble = connection, ""
                    self._words.clear()
                    self._types.clear()
                break
        self._connection.close()

    def _hear_all(self, connection: Any) -> str:
        """Hears until the connection ends; returns why it did."""
        from websockets.exceptions import ConnectionClosed

        try:
            for text in connection:
                self._hear(text)
        except (ConnectionClosed, OSError) as error:
            return str(error)
        return "it hung up"

    def _hear(self, text: str | bytes) -> None:
        try:
            message = json.loads(text, object_hook=lambda fields: SimpleNamespace(**fields))
            operation = message.op
        except (ValueError, TypeError, AttributeError, RecursionError):
            self._tell(f"{self._url} sent what is no message of rosbridge")
            return
        if operation == "publish":
            for wanted in self._subscriptions:
                if wanted.topic == getattr(message, "topic", ""):
                    wanted.hear(getattr(message, "msg", None))
        elif operation == "status" and getattr(message, "level", "") in ("error", "warning"):
            self._note(str(getattr(message, "msg", "")))
        elif operation == "service_response" and getattr(message, "result", False) is True:
            topic = str(getattr(message, "id", "")).removeprefix(f"{TYPE_OF} ")
            carried = getattr(getattr(message, "values", None), "type", None)
            if isinstance(carried, str):
                with self._lock:
                    self._types[topic] = carried

    def _note(self, words: str) -> None:
        """Keeps what the bridge says for the topic that it names."""
        topics = [topic for topic in self._topics if topic in words]
        with self._lock:
            is_news = not any(self._words.get(topic, ("", 0))[0] == words for topic in topics)
            for topic in topics:
                self._words[topic] = words, time.monotonic()
        if is_news:
            self._tell(f"the bridge says: {words}")


def _as_json(trajectory: Trajectory) -> dict[str, Any]:
    """Returns a trajectory_msgs/msg/JointTrajectory."""
    points = [
        {
            "positions": positions,
            "velocities": velocities,
            "time_from_start": {"sec": seconds, "nanosec": nanoseconds},
        }
        for positions, velocities, (seconds, nanoseconds) in trajectory.points()
    ]
    # Without a stamp the bridge would write its own time into it.
    header = {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": ""}
    return {"header": header, "joint_names": list(trajectory.joints), "points": points}


def _question(topic: str) -> dict[str, Any]:
    """Returns the call that asks what a topic carries."""
    return {
        "op": "call_service",
        "id": f"{TYPE_OF} {topic}",
        "service": TYPE_OF,
        "args": {"topic": topic},
    }
