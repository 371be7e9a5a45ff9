"""A node of ROS 2: rclpy, as the sourced ROS installation has it."""

import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from actquant.common.errors import RosError, brief
from actquant.ros.link import Subscription
from actquant.ros.messages import (
    COMPRESSED_IMAGE,
    IMAGE,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    STRING,
    Trajectory,
)

NODE = "actquant"
HEARD = (IMAGE, COMPRESSED_IMAGE, JOINT_STATE, STRING)
POINT = "trajectory_msgs/msg/JointTrajectoryPoint"


def _import(name: str) -> Any:
    """Returns a module of ROS, which only its own installation has."""
    try:
        return import_module(name)
    except ImportError as error:
        raise RosError(
            f"{name} cannot be imported ({brief(error)}); source ROS 2 (Jazzy or later: of Python "
            "3.12) in this shell, or reach the robot through a rosbridge by --url"
        ) from error


def _message(type: str) -> Any:
    """Returns the class of a type such as std_msgs/msg/String."""
    module, _, name = type.replace("/", ".").rpartition(".")
    return getattr(_import(module), name)


class NodeLink:
    """A node whose topics are heard in a thread of its own."""

    def __init__(self, name: str = NODE) -> None:
        """Raises RosError where rclpy or a type of message is not installed."""
        self._name, self._failure = name, ""
        self._rclpy, self._qos = _import("rclpy"), _import("rclpy.qos")
        self._executors, self._signals = _import("rclpy.executors"), _import("rclpy.signals")
        self._types = {type: _message(type) for type in (*HEARD, JOINT_TRAJECTORY, POINT)}
        self._thread = threading.Thread(target=self._spin, name="ros", daemon=True)

    def open(self, subscriptions: list[Subscription], trajectories: list[str], status: str) -> None:
        """Makes the node. Raises RosError, for a name that is no topic's too."""
        self._context = self._rclpy.Context()
        no_handlers = self._signals.SignalHandlerOptions.NO
        try:
            self._rclpy.init(context=self._context, signal_handler_options=no_handlers)
            self._node = self._rclpy.create_node(self._name, context=self._context)
            self._make(subscriptions, trajectories, status)
        except Exception as error:  # rclpy's own are many, RuntimeError among them
            self._context.try_shutdown()
            raise RosError(f"no node {self._name} with these topics: {brief(error)}") from error
        self._executor = self._executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread.start()

    def _make(
        self, subscriptions: list[Subscription], trajectories: list[str], status: str
    ) -> None:
        for wanted in subscriptions:
            quality = self._qos.QoSProfile(depth=1 if wanted.is_picture else 10)
            if wanted.type != STRING:  # hears both kinds of publishers
                quality.reliability = self._qos.ReliabilityPolicy.BEST_EFFORT
            self._node.create_subscription(
                self._types[wanted.type], wanted.topic, wanted.hear, quality
            )
        newest = self._qos.QoSProfile(depth=1)
        self._publishers = {
            topic: self._node.create_publisher(self._types[JOINT_TRAJECTORY], topic, newest)
            for topic in trajectories
        }
        self._status = self._node.create_publisher(self._types[STRING], status, newest)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"

    def trouble(self) -> str:
        """Says why the node does not hear any more."""
        return f"the node has ended ({self._failure})" if self._failure else ""

    def about(self, subscription: Subscription) -> str:
        """Says who publishes a topic, where nobody does or with another type."""
        found = self._node.get_publishers_info_by_topic(subscription.topic)
        others = sorted({info.topic_type for info in found} - {subscription.type})
        if not found:
            return "nobody publishes it"
        return f"it carries {', '.join(others)}" if others else ""

    def send(self, trajectories: Mapping[str, Trajectory]) -> None:
        """Publishes trajectories with no time in their headers: they begin at once."""
        for topic, trajectory in trajectories.items():
            message = self._types[JOINT_TRAJECTORY](joint_names=list(trajectory.joints))
            for positions, velocities, (seconds, nanoseconds) in trajectory.points():
                point = self._types[POINT](positions=positions, velocities=velocities)
                point.time_from_start.sec, point.time_from_start.nanosec = seconds, nanoseconds
                message.points.append(point)
            self._publishers[topic].publish(message)

    def say(self, text: str) -> None:
        """Publishes a std_msgs/msg/String."""
        self._status.publish(self._types[STRING](data=text))

    def close(self) -> None:
        """Ends the node."""
        self._executor.shutdown(timeout_sec=5.0)
        self._thread.join(5.0)
        self._node.destroy_node()
        self._context.try_shutdown()
