"""Scheduling of chunks: what is executed in each tick, what the policy is asked and when."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import pytest
from actquant_runtime import PreviousChunk

from actquant.common.errors import SchedulingError
from actquant.control.chunk_scheduler import RECENT_CHUNKS, ChunkScheduler

LENGTH, DIM = 8, 2


def chunk_of(number: int, length: int = LENGTH) -> np.ndarray:
    """Action i of chunk n is (n, i)."""
    return np.stack([np.full(length, number), np.arange(length)], 1).astype(np.float32)


class Policy:
    """Answers the n-th call with chunk n, once it may."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, PreviousChunk | None]] = []
        self.begun = threading.Semaphore(0)
        self.may_answer = threading.Semaphore(0)
        self.lengths: dict[int, int] = {}
        self.errors: dict[int, Exception] = {}

    def act(self, observation: Any, previous: PreviousChunk | None) -> np.ndarray:
        number = len(self.asked)
        self.asked.append((observation, previous))
        self.begun.release()
        assert self.may_answer.acquire(timeout=60)
        if number in self.errors:
            raise self.errors[number]
        return chunk_of(number, self.lengths.get(number, LENGTH))


class OneThread(ThreadPoolExecutor):
    """The scheduler's kind of thread, whose work a test can wait for."""

    def __init__(self) -> None:
        super().__init__(1)
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.futures.append(super().submit(fn, *args, **kwargs))
        return self.futures[-1]


class Robot:
    """Ticks a scheduler with observations 0, 1, … and decides when the policy has answered."""

    def __init__(self, mode: str, **settings: Any) -> None:
        self.policy, self.executor = Policy(), OneThread()
        self.now_s = 100.0
        settings = {"steps_per_chunk": 4, **settings}
        self.scheduler = ChunkScheduler(
            self.policy.act,
            mode=mode,
            executor=self.executor,
            clock=lambda: self.now_s,
            **settings,
        )
        self.ticks = 0

    def tick(self) -> tuple[int, int] | None:
        """(chunk, index) of the action executed."""
        tick = self.scheduler.tick(self.ticks)
        self.ticks += 1
        if tick is None:
            return None
        assert (tick.chunk, tick.index) == tuple(tick.action)
        return tick.chunk, tick.index

    def wait_until_asked(self, times: int) -> None:
        for _ in range(times):
            assert self.policy.begun.acquire(timeout=60)

    def answer(self) -> None:
        """Let the policy answer, and wait until it has."""
        self.policy.may_answer.release()
        wait(self.executor.futures)

    def run(self, ticks: int, delay: int) -> list[tuple[int, int] | None]:
        """Ticks in which every chunk takes `delay` ticks."""
        executed, age = [], 0
        for _ in range(ticks):
            pending = [future for future in self.executor.futures if not future.done()]
            if pending and age >= delay:
                self.answer()
                age = 0
            executed.append(self.tick())
            age += any(not future.done() for future in self.executor.futures)
        return executed


@pytest.fixture
def robots() -> Iterator[Any]:
    made: list[Robot] = []

    def make(mode: str, **settings: Any) -> Robot:
        made.append(Robot(mode, **settings))
        return made[-1]

    yield make
    for robot in made:
        robot.policy.may_answer.release(100)
        robot.executor.shutdown()


def steps(chunk: int, *indices: int) -> list[tuple[int, int]]:
    return [(chunk, index) for index in indices]


def test_sync_equals_calling_the_policy_by_hand() -> None:
    asked: list[tuple[Any, Any]] = []

    def act(observation: int, previous: PreviousChunk | None) -> np.ndarray:
        asked.append((observation, previous))
        return np.full((LENGTH, DIM), observation, np.float32) + chunk_of(0)

    scheduler = ChunkScheduler(act, mode="sync", steps_per_chunk=3)
    ticks = [scheduler.tick(observation) for observation in range(10)]
    by_hand = [action for seen in (0, 3, 6, 9) for action in act(seen, None)[:3]][:10]
    np.testing.assert_array_equal([t.action for t in ticks if t], by_hand)
    assert asked[:4] == [(0, None), (3, None), (6, None), (9, None)]
    assert [k for k, tick in enumerate(ticks) if tick and tick.seam] == [3, 6, 9]
    assert [t.delay for t in ticks if t] == [0] * 10


def test_sync_lets_nothing_follow_the_last_action_before_the_next_observation() -> None:
    scheduler = ChunkScheduler(lambda *_: chunk_of(0), mode="sync", steps_per_chunk=3)
    upcoming = [scheduler.tick(k).upcoming[:, 1].tolist() for k in range(4)]  # type: ignore[union-attr]
    assert upcoming == [[1, 2], [2], [], [1, 2]]


def test_async_skips_exactly_the_actions_executed_meanwhile(robots: Any) -> None:
    robot = robots("async")
    assert robot.tick() is None
    robot.answer()
    assert [robot.tick() for _ in range(4)] == steps(0, 0, 1, 2, 3)
    assert len(robot.policy.asked) == 1
    assert [robot.tick() for _ in range(2)] == steps(0, 4, 5)
    robot.answer()
    tick = robot.scheduler.tick("later")
    assert tick is not None
    assert (tick.chunk, tick.index, tick.delay, tick.seam) == (1, 2, 2, True)
    np.testing.assert_array_equal(tick.upcoming, chunk_of(1)[3:])
    assert [observation for observation, _ in robot.policy.asked] == [0, 5]
    assert all(previous is None for _, previous in robot.policy.asked)


@pytest.mark.parametrize("delay", [1, 2, 3, 4])
def test_every_chunk_hands_over_after_its_steps_whatever_the_delay(robots: Any, delay: int) -> None:
    robot = robots("async")
    executed = robot.run(30, delay)
    assert executed[:delay] == [None] * delay
    first = steps(0, *range(4 + delay))
    second = steps(1, *range(delay, 4 + delay))
    third = steps(2, *range(delay, 4 + delay))
    assert executed[delay : delay + 12 + delay] == first + second + third
    assert robot.scheduler.underruns == 0
    assert robot.scheduler.expected_delay == delay


def test_an_answer_within_the_tick_costs_no_action(robots: Any) -> None:
    robot = robots("async")
    robot.policy.may_answer.release(100)
    robot.executor.submit = lambda fn, *args: _done(
        ThreadPoolExecutor.submit(robot.executor, fn, *args)
    )
    assert [robot.tick() for _ in range(6)] == steps(0, 0, 1, 2, 3) + steps(1, 0, 1)
    assert robot.scheduler.expected_delay == 0


def _done(future: Future[Any]) -> Future[Any]:
    wait([future])
    return future


def test_rtc_passes_exactly_what_is_left_over(robots: Any) -> None:
    robot = robots("rtc", execution_horizon=6, max_guidance=5.0, schedule="exp")
    robot.run(7, delay=2)
    robot.wait_until_asked(2)
    assert robot.policy.asked[0] == (0, None)
    observation, previous = robot.policy.asked[1]
    assert observation == 6
    np.testing.assert_array_equal(previous.actions, chunk_of(0)[4:])
    assert (previous.delay, previous.execution_horizon) == (2, 6)
    assert (previous.max_guidance, previous.schedule) == (5.0, "exp")


def test_rtc_expects_the_longest_of_the_recent_delays(robots: Any) -> None:
    robot = robots("rtc", steps_per_chunk=1)
    robot.run(4, delay=3)
    robot.run(20 * RECENT_CHUNKS, delay=1)
    delays = [previous.delay for _, previous in robot.policy.asked[1:]]
    assert delays[:RECENT_CHUNKS] == [3] * RECENT_CHUNKS and set(delays[2 * RECENT_CHUNKS :]) == {1}


def test_the_next_chunk_is_asked_for_early_if_it_would_come_too_late(robots: Any) -> None:
    robot = robots("rtc", steps_per_chunk=7)
    executed = robot.run(40, delay=3)
    assert None not in executed[3:]
    asked = [previous for _, previous in robot.policy.asked[1:]]
    assert all(len(previous.actions) == previous.delay == 3 for previous in asked)


def test_a_late_chunk_holds_and_goes_on_where_the_robot_stopped(robots: Any) -> None:
    robot = robots("async", steps_per_chunk=6)
    robot.tick()
    robot.answer()
    assert [robot.tick() for _ in range(8)] == steps(0, *range(8))
    assert [robot.tick() for _ in range(3)] == [None] * 3
    assert robot.scheduler.underruns == 3
    robot.answer()
    tick = robot.scheduler.tick("later")
    assert tick is not None and (tick.chunk, tick.index, tick.delay) == (1, 2, 2)


def test_a_chunk_that_is_over_before_it_comes_is_not_executed(robots: Any) -> None:
    robot = robots("async", steps_per_chunk=2)
    robot.policy.lengths = {1: 4}
    robot.tick()
    robot.answer()
    assert [robot.tick() for _ in range(8)] == steps(0, *range(8))
    robot.answer()  # chunk 1 has 4 actions, and 6 were executed since
    assert robot.tick() is None and robot.scheduler.underruns == 1
    robot.answer()
    assert robot.tick() == (2, 0)
    assert robot.policy.asked[2] == (9, None)


def test_refused_actions_do_not_count_as_executed(robots: Any) -> None:
    robot = robots("async")
    robot.tick()
    robot.answer()
    assert [robot.tick() for _ in range(5)] == steps(
        0, *range(5)
    )  # the fifth while chunk 1 is made
    for _ in range(3):
        assert robot.tick() == (0, 5)
        robot.scheduler.refused()
    robot.answer()
    tick = robot.scheduler.tick("later")
    assert tick is not None and (tick.chunk, tick.index, tick.delay) == (1, 1, 1)
    assert tick.seam


def test_a_refused_action_is_given_again_until_the_next_chunk(robots: Any) -> None:
    robot = robots("async", steps_per_chunk=6)
    robot.tick()
    robot.answer()
    assert [robot.tick() for _ in range(2)] == steps(0, 0, 1)
    robot.scheduler.refused()
    assert len(robot.policy.asked) == 1
    assert robot.tick() == (0, 1)  # and asks
    robot.scheduler.refused()
    robot.wait_until_asked(2)
    robot.answer()
    assert robot.tick() == (1, 0)


def test_the_first_action_of_a_chunk_stays_its_seam_after_a_refusal(robots: Any) -> None:
    robot = robots("async")
    robot.tick()
    robot.answer()
    assert [robot.tick() for _ in range(5)] == steps(0, *range(5))
    robot.answer()
    first = robot.scheduler.tick("first")
    robot.scheduler.refused()
    again = robot.scheduler.tick("again")
    assert [(t.chunk, t.index, t.seam) for t in (first, again)] == [(1, 1, True)] * 2


def test_in_sync_a_refusal_asks_anew() -> None:
    asked: list[int] = []

    def act(observation: int, previous: PreviousChunk | None) -> np.ndarray:
        asked.append(observation)
        return chunk_of(len(asked) - 1)

    scheduler = ChunkScheduler(act, mode="sync", steps_per_chunk=4)
    ticks = []
    for observation in range(4):
        tick = scheduler.tick(observation)
        assert tick is not None
        ticks.append((tick.chunk, tick.index))
        if observation == 1:
            scheduler.refused()
            assert scheduler.is_chunk_due
    assert ticks == [(0, 0), (0, 1), (1, 0), (1, 1)] and asked == [0, 2]


def test_rtc_is_not_guided_to_what_was_refused(robots: Any) -> None:
    robot = robots("rtc")
    robot.tick()
    robot.answer()
    assert robot.tick() == (0, 0)
    robot.scheduler.refused()
    robot.tick()
    robot.wait_until_asked(2)
    assert robot.policy.asked[1] == (2, None)


def test_what_was_only_looked_at_does_not_count_as_executed(robots: Any) -> None:
    robot = robots("async")
    robot.tick()
    robot.answer()
    ticks = []
    for _ in range(6):
        ticks.append(robot.tick())
        robot.scheduler.not_executed()
    assert ticks == steps(0, *range(6))
    robot.answer()
    assert robot.tick() == (1, 0)


def test_nothing_can_be_taken_back_twice() -> None:
    scheduler = ChunkScheduler(lambda *_: chunk_of(0), mode="sync", steps_per_chunk=3)
    with pytest.raises(SchedulingError, match="no action that could be taken back"):
        scheduler.refused()
    scheduler.tick(0)
    scheduler.not_executed()
    with pytest.raises(SchedulingError, match="no action that could be taken back"):
        scheduler.refused()


@pytest.mark.parametrize(("delay", "holds"), [(LENGTH // 2, False), (LENGTH // 2 + 1, True)])
def test_the_robot_need_not_hold_up_to_a_delay_of_half_a_chunk(
    robots: Any, delay: int, holds: bool
) -> None:
    robot = robots("async")
    robot.run(60, delay)
    assert (robot.scheduler.underruns > 0) == holds


def test_the_age_is_that_of_the_observation_the_chunk_answers(robots: Any) -> None:
    robot = robots("async")
    robot.scheduler.tick("first", observation_time_s=99.5)
    robot.answer()
    robot.now_s = 100.25
    tick = robot.scheduler.tick("second", observation_time_s=100.2)
    assert (tick.observation_time_s, tick.age_s) == (99.5, 0.75)
    robot.now_s = 101.0
    assert robot.scheduler.tick("third").age_s == 1.5


def test_without_a_time_an_observation_is_of_now(robots: Any) -> None:
    robot = robots("async")
    robot.scheduler.tick("first")
    robot.answer()
    robot.now_s = 100.25
    assert robot.scheduler.tick("second").observation_time_s == 100.0


def test_an_error_of_the_policy_is_raised_by_the_next_tick(robots: Any) -> None:
    robot = robots("async")
    robot.policy.errors = {1: RuntimeError("no such camera")}
    robot.tick()
    robot.answer()
    assert [robot.tick() for _ in range(5)] == steps(0, *range(5))
    robot.answer()
    with pytest.raises(RuntimeError, match="no such camera"):
        robot.tick()
    assert robot.tick() == (0, 5)  # and asks again
    robot.answer()
    tick = robot.scheduler.tick("later")
    assert tick.delay == 1
    np.testing.assert_array_equal(tick.action, chunk_of(2)[1])


def test_an_error_in_sync_is_raised_at_once() -> None:
    def act(*_: Any) -> np.ndarray:
        raise RuntimeError("no such camera")

    scheduler = ChunkScheduler(act, mode="sync", steps_per_chunk=3)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no such camera"):
            scheduler.tick(0)


def test_a_chunk_too_short_is_refused() -> None:
    scheduler = ChunkScheduler(lambda *_: chunk_of(0), mode="sync", steps_per_chunk=9)
    with pytest.raises(SchedulingError, match=r"shape \(8, 2\); expected at least 9 actions"):
        scheduler.tick(0)


def test_reset_forgets_the_chunk_and_the_one_in_the_making(robots: Any) -> None:
    robot = robots("rtc")
    robot.tick()
    robot.answer()
    assert [robot.tick() for _ in range(5)] == steps(0, *range(5))
    robot.wait_until_asked(2)
    robot.scheduler.reset()
    assert robot.scheduler.tick("new episode") is None
    robot.policy.may_answer.release(2)
    wait(robot.executor.futures)
    tick = robot.scheduler.tick("later")
    assert (tick.chunk, tick.index, tick.delay, tick.seam) == (0, 0, 0, False)
    np.testing.assert_array_equal(tick.action, chunk_of(2)[0])
    assert robot.policy.asked[2] == ("new episode", None)
    assert robot.scheduler.underruns == 0


def test_reset_drops_the_error_of_the_episode_before(robots: Any) -> None:
    robot = robots("async")
    robot.policy.errors = {0: RuntimeError("of the episode before")}
    robot.tick()
    robot.wait_until_asked(1)
    robot.scheduler.reset()
    robot.policy.may_answer.release(2)
    robot.tick()
    wait(robot.executor.futures)
    assert robot.scheduler.tick("later") is not None


def test_close_waits_for_the_chunk_in_the_making() -> None:
    policy = Policy()
    scheduler = ChunkScheduler(policy.act, mode="async", steps_per_chunk=4)
    scheduler.tick(0)
    assert policy.begun.acquire(timeout=60)
    closed = threading.Event()

    def close() -> None:
        scheduler.close()
        closed.set()

    closing = threading.Thread(target=close)
    closing.start()
    assert not closed.wait(0.2)
    policy.may_answer.release()
    assert closed.wait(60)
    workers = [t for t in threading.enumerate() if t.name.startswith("policy")]
    assert not workers


def test_everything_wrong_is_named_at_once() -> None:
    with pytest.raises(SchedulingError) as caught:
        ChunkScheduler(
            lambda *_: chunk_of(0),
            mode="turbo",
            steps_per_chunk=0,
            execution_horizon=0,
            max_guidance=float("nan"),
            schedule="cubic",
        )
    message = str(caught.value)
    for part in ("'turbo'", "sync, async, rtc", "steps_per_chunk 0", "execution_horizon 0"):
        assert part in message
    assert "max_guidance nan" in message and "'cubic'" in message


def test_rtc_needs_a_flow() -> None:
    with pytest.raises(SchedulingError, match="does not come from a flow; choose sync, async"):
        ChunkScheduler(
            lambda *_: chunk_of(0), mode="rtc", steps_per_chunk=4, supports_guidance=False
        )
