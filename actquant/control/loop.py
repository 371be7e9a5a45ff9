"""The control loop: the same for a simulated world and for a robot."""

from typing import Any, Protocol

from actquant.control.chunk_scheduler import ChunkScheduler, Tick


class World[Ending](Protocol):
    """What the loop observes and acts upon, with its clock, its rules and its refusals.

    Every method returns how the episode ends, or None if it goes on.
    """

    def next_tick(self) -> Ending | None:
        """Waits until the next tick is due, which in a simulated world is at once."""
        ...

    def prepare(self) -> Ending | None:
        """Does what has to be done before the world is observed."""
        ...

    def observe(self) -> tuple[Any, float | None]:
        """Returns what the policy may be asked about, and when it was seen (s, of the scheduler's
        clock; None for now)."""
        ...

    def execute(self, tick: Tick) -> Ending | None:
        """Executes the action of a tick."""
        ...

    def wait_for_policy(self) -> Ending | None:
        """Lets a tick pass for which the policy has no action yet."""
        ...

    def policy_failed(self, error: Exception) -> Ending:
        """Returns the ending for what the policy raised, or raises it."""
        ...

    def failed(self, error: Exception) -> Ending | None:
        """Returns what follows from what the world itself raised in a tick, or raises it."""
        ...


def run_loop[Ending](world: World[Ending], scheduler: ChunkScheduler) -> Ending:
    """Runs ticks until the episode ends; returns how."""
    while True:
        ending = world.next_tick()
        if ending is None:
            try:
                ending = _tick(world, scheduler)
            except Exception as error:
                ending = world.failed(error)
        if ending is not None:
            return ending


def _tick[Ending](world: World[Ending], scheduler: ChunkScheduler) -> Ending | None:
    if (ending := world.prepare()) is not None:
        return ending
    observation, time_s = world.observe()
    try:
        tick = scheduler.tick(observation, time_s)
    except Exception as error:
        return world.policy_failed(error)
    return world.wait_for_policy() if tick is None else world.execute(tick)
