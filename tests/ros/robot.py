"""A robot of ROS 2 for tests: rclpy's own node, which publishes what it is told to.

Each line of stdin is a JSON object of what is published from now on, ten times a second: {topic:
{"type": …, "fields": …}}. On stdout comes a line for each message of the topics that were given as
arguments (TOPIC=TYPE): {"topic": …, "message": …}.

A field "data" of base64 is bytes; "now" for a stamp is the time of publishing.
"""

import array
import base64
import json
import sys
import threading
from contextlib import suppress
from importlib import import_module

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile


def class_of(name):
    package, _, name = name.split("/")
    return getattr(import_module(f"{package}.msg"), name)


def filled(message, fields, node):
    for name, value in fields.items():
        old = getattr(message, name)
        if value == "now":
            setattr(message, name, node.get_clock().now().to_msg())
        elif isinstance(value, dict):
            filled(old, value, node)
        elif name == "data" and not isinstance(old, str):
            setattr(message, name, array.array("B", base64.b64decode(value)))
        else:
            setattr(message, name, value)
    return message


def told(value):
    """A message as JSON."""
    fields = getattr(value, "get_fields_and_field_types", None)
    if fields is not None:
        return {name: told(getattr(value, name)) for name in fields()}
    return value if isinstance(value, str | int | float | bool) else [told(v) for v in value]


class Robot:
    def __init__(self, heard):
        rclpy.init()
        self.node = rclpy.create_node("robot")
        self.topics = {}
        self.publishers = {}
        for topic, kind in heard:
            self.node.create_subscription(
                class_of(kind),
                topic,
                lambda m, topic=topic: self.hear(topic, m),
                QoSProfile(depth=10),
            )
        self.node.create_timer(0.1, self.publish)

    def hear(self, topic, message):
        print(json.dumps({"topic": topic, "message": told(message)}), flush=True)

    def publish(self):
        for topic, what in list(self.topics.items()):
            self.send(topic, what)

    def send(self, topic, what):
        kind = class_of(what["type"])
        key = topic, what["type"]
        if key not in self.publishers:
            self.publishers[key] = self.node.create_publisher(kind, topic, QoSProfile(depth=1))
        self.publishers[key].publish(filled(kind(), what["fields"], self.node))

    def obey(self, line):
        topics = self.topics = json.loads(line)
        for topic, kind in list(self.publishers):
            if topic in topics and topics[topic]["type"] != kind:
                self.node.destroy_publisher(self.publishers.pop((topic, kind)))


def spin(executor):
    with suppress(ExternalShutdownException):
        executor.spin()


def main():
    robot = Robot([argument.split("=") for argument in sys.argv[1:]])
    executor = SingleThreadedExecutor()
    executor.add_node(robot.node)
    spinning = threading.Thread(target=spin, args=[executor])
    spinning.start()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        robot.obey(line)
    rclpy.shutdown()
    spinning.join()


main()
