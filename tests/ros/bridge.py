"""A server of rosbridge's protocol, version 2, for tests; made by its specification, and strict.

What is published is checked against ROS 2's definitions of messages and goes through ROS 2's wire
format (CDR, by rosbags), as it would to a robot. As rosbridge_suite of ROS 2 does, it tells clients
of no error unless `tells`, where it sends the specification's status messages.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

STORE = get_typestore(Stores.ROS2_JAZZY)


class Refused(Exception):
    pass


def message_of(kind: str, value: Any, where: str = "") -> Any:
    """Returns a ROS 2 message of JSON. Fields that are left out have their defaults, but the time
    of a header, which is now."""
    if not isinstance(value, dict):
        raise Refused(f"{where or kind} is {value!r}, expected an object")
    fields = dict(STORE.fielddefs[kind][1])
    if unknown := set(value) - set(fields):
        raise Refused(f"Message type {kind} does not have a field {where}{', '.join(unknown)}")
    if kind == "std_msgs/msg/Header" and "stamp" not in value:
        value = {**value, "stamp": {"sec": int(time.time()), "nanosec": 0}}
    made = {}
    for name, field in fields.items():
        made[name] = _value(field, value.get(name), f"{where}{name}.")
        if name in value and value[name] is None:
            raise Refused(f"{where}{name} is null")
    return STORE.types[kind](**made)


def _value(field: Any, value: Any, where: str) -> Any:
    node, about = field
    if node == Nodetype.NAME:
        return message_of(about, {} if value is None else value, where)
    if node == Nodetype.BASE:
        kind = about[0]
        if kind == "string":
            if not isinstance(value, str | None):
                raise Refused(f"{where} is {value!r}, expected a string")
            return value or ""
        if kind.startswith("float"):
            if isinstance(value, bool) or not isinstance(value, int | float | None):
                raise Refused(f"{where} is {value!r}, expected a number")
            return float(value or 0)
        if isinstance(value, bool) or not isinstance(value, int | None):
            raise Refused(f"{where} is {value!r}, expected a whole number")
        limits = np.iinfo(kind)
        if not limits.min <= (value or 0) <= limits.max:
            raise Refused(f"{where} is {value!r}, no {kind}")
        return value or 0
    assert node == Nodetype.SEQUENCE
    if not isinstance(value, list | None):
        raise Refused(f"{where} is {value!r}, expected a list")
    of = about[0]
    values = [_value(of, v, f"{where}{i}.") for i, v in enumerate(value or [])]
    is_number = of[0] == Nodetype.BASE and of[1][0] != "string"
    return np.array(values, of[1][0]) if is_number else values


def by_wire(kind: str, message: Any) -> Any:
    """Returns the message as a node of ROS 2 receives it."""
    return STORE.deserialize_cdr(STORE.serialize_cdr(message, kind), kind)


class Bridge:
    """Attributes:
    port: it listens on; it stays when the bridge goes and comes back.
    established: types of topics that other nodes have.
    heard: (topic, message) of what clients published.
    refused: what it did not take, in words.
    """

    def __init__(self, tells: bool = False, has_rosapi: bool = True) -> None:
        self.tells, self.has_rosapi = tells, has_rosapi
        self.established: dict[str, str] = {}
        self.heard: list[tuple[str, Any]] = []
        self.refused: list[str] = []
        self.port = 0
        self._lock = threading.Lock()
        self._clients: dict[Any, dict[str, Any]] = {}

    def come(self) -> None:
        """Begins to listen."""
        self._server = serve(self._client, "127.0.0.1", self.port, max_size=None)
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def go(self) -> None:
        """Hangs up on every client and does not listen any more."""
        self._server.shutdown()
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            client.close()
        self._thread.join(10)

    def publish(self, topic: str, kind: str, fields: dict[str, Any]) -> None:
        """Sends what another node has published to those who subscribed to it as that."""
        self.established.setdefault(topic, kind)
        with self._lock:
            clients = list(self._clients.items())
        for client, topics in clients:
            if topics["heard"].get(topic) == kind:
                with suppress(ConnectionClosed):
                    client.send(json.dumps({"op": "publish", "topic": topic, "msg": fields}))

    def _client(self, client: Any) -> None:
        with self._lock:
            self._clients[client] = topics = {"heard": {}, "advertised": {}}
        try:
            for text in client:
                try:
                    self._operation(client, topics, json.loads(text))
                except Refused as error:
                    self.refused.append(str(error))
                    if self.tells:
                        status = {"op": "status", "level": "error", "msg": str(error)}
                        client.send(json.dumps(status))
        except ConnectionClosed:
            pass
        finally:
            with self._lock:
                del self._clients[client]

    def _operation(self, client: Any, topics: dict[str, Any], message: dict[str, Any]) -> None:
        operation, topic = message["op"], message.get("topic")
        if operation in ("advertise", "subscribe"):
            self._only(message, "op", "topic", "type", "queue_length", "throttle_rate")
            kind = message["type"]
            if kind not in STORE.fielddefs:
                raise Refused(f"{operation}: there is no type {kind}")
            known = self.established.get(topic, kind)
            if known != kind:
                raise Refused(
                    f"{operation}: Tried to register topic {topic} with type {kind} but it is "
                    f"already established with type {known}"
                )
            for name in ("queue_length", "throttle_rate"):
                if not isinstance(message.get(name, 0), int):
                    raise Refused(f"{operation}: {name} is no whole number")
            topics["advertised" if operation == "advertise" else "heard"][topic] = kind
        elif operation == "publish":
            self._only(message, "op", "topic", "msg")
            if topic not in topics["advertised"]:
                raise Refused(f"publish: Cannot infer topic type for topic {topic}")
            kind = topics["advertised"][topic]
            self.heard.append((topic, by_wire(kind, message_of(kind, message["msg"]))))
        elif operation == "call_service":
            self._only(message, "op", "id", "service", "args")
            answer = {"op": "service_response", "id": message["id"], "service": message["service"]}
            if self.has_rosapi and message["service"] == "/rosapi/topic_type":
                mine = topics["heard"] | topics["advertised"]
                asked = message["args"]["topic"]
                kind = self.established.get(asked) or mine.get(asked, "")
                answer |= {"values": {"type": kind}, "result": True}
            else:
                answer |= {"values": "Service does not exist", "result": False}
            client.send(json.dumps(answer))
        else:
            raise Refused(f"Unknown operation: {operation}")

    @staticmethod
    def _only(message: dict[str, Any], *fields: str) -> None:
        if unknown := set(message) - set(fields):
            raise Refused(f"{message['op']}: {unknown}")


@contextmanager
def bridging(**settings: Any) -> Iterator[Bridge]:
    """Runs a bridge."""
    bridge = Bridge(**settings)
    bridge.come()
    try:
        yield bridge
    finally:
        bridge.go()
