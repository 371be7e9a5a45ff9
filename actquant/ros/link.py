"""What a policy asks of ROS: topics to hear, trajectories to send. `node` and `rosbridge` do it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from actquant.ros.messages import COMPRESSED_IMAGE, IMAGE, Trajectory


@dataclass(frozen=True)
class Subscription:
    """A topic to hear.

    Attributes:
        type: of its messages, such as sensor_msgs/msg/Image.
        hear: called with each message, in another thread; see `messages`.
    """

    topic: str
    type: str
    hear: Callable[[Any], None]

    @property
    def is_picture(self) -> bool:
        """Whether messages are large, the newest alone counts, and one may be lost."""
        return self.type in (IMAGE, COMPRESSED_IMAGE)


class Link(Protocol):
    """A connection to ROS. Opened once with all topics; methods are for one thread."""

    def open(self, subscriptions: list[Subscription], trajectories: list[str], status: str) -> None:
        """Hears topics from now on, and advertises those of trajectories and of the status.

        Raises RosError where ROS cannot be reached.
        """
        ...

    def trouble(self) -> str:
        """Says why nothing can be heard or sent at present; empty where all is well."""
        ...

    def about(self, subscription: Subscription) -> str:
        """Says what is known of a topic on which nothing is heard; empty where nothing is."""
        ...

    def send(self, trajectories: Mapping[str, Trajectory]) -> None:
        """Publishes trajectories by their topics, which begin when they arrive.

        Raises RosError where one of them is not taken; nothing is published then.
        """
        ...

    def say(self, text: str) -> None:
        """Publishes a text on the status topic, as far as that can be done."""
        ...

    def close(self) -> None:
        """Leaves ROS."""
        ...
