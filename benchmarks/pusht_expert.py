"""A scripted expert in PushT, and its demonstrations as a LeRobotDataset.

    python benchmarks/pusht_expert.py --episodes 40 --record demonstrations

It knows where everything is, and plans each push by trying many in a copy of the simulation. It
acts through the same two numbers as a policy, in LeRobot's environment `pusht`, from the seeds from
`--first` on; `lerobot-eval` and `actquant eval` take those from 0 on.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import gym_pusht.envs.pusht as pusht  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from pymunk import Vec2d  # noqa: E402

from actquant.environments.lerobot import LeRobotSuite  # noqa: E402

RATE_HZ = 10
STRIDE = 32.0
"""px that the target moves in a step."""
ROUND = 118.0
"""px from the block's middle, at which nothing of it is met."""
INSIDE = (18.0, 494.0)
"""px between the walls, for the agent's middle."""
TRIED, REFINED = 28, 20
"""Pushes that are planned at random, and near the best of these."""

Path2d = list[NDArray[np.float64]]


class Copy:
    """A second simulation, in which pushes are tried."""

    def __init__(self) -> None:
        self.env = pusht.PushTEnv(obs_type="state")
        self.env.reset(seed=0)

    def take_over(self, real: pusht.PushTEnv) -> None:
        """Begins where the real one is."""
        for ours, theirs in ((self.env.agent, real.agent), (self.env.block, real.block)):
            ours.angle, ours.position = theirs.angle, theirs.position
            ours.velocity, ours.angular_velocity = theirs.velocity, theirs.angular_velocity
            self.env.space.reindex_shapes_for_body(ours)

    def follow(self, targets: Path2d) -> float:
        """Carries out targets as `PushTEnv.step` does; returns how far the block then is (px)."""
        env = self.env
        for target in targets:
            for _ in range(int(1 / (env.dt * env.control_hz))):
                pull = env.k_p * (Vec2d(*target) - env.agent.position)
                env.agent.velocity += (pull - env.k_v * env.agent.velocity) * env.dt
                env.space.step(env.dt)
        return distance(env)


def corners(body: object, shapes: object) -> NDArray[np.float64]:
    """Returns the corners of the T's two bars, [8, 2]."""
    return np.array([body.local_to_world(v) for shape in shapes for v in shape.get_vertices()])


def distance(env: pusht.PushTEnv) -> float:
    """Returns how far the block's corners are from the goal's, on average (px)."""
    goal = env.get_goal_pose_body(env.goal_pose)
    shapes = env.block.shapes
    return float(np.linalg.norm(corners(env.block, shapes) - corners(goal, shapes), axis=1).mean())


def strides(points: Path2d) -> Path2d:
    """Returns targets along points, at most STRIDE apart, without the first."""
    targets: Path2d = []
    for begin, end in zip(points, points[1:], strict=False):
        count = max(1, math.ceil(float(np.linalg.norm(end - begin)) / STRIDE))
        targets += [begin + (end - begin) * k / count for k in range(1, count + 1)]
    return [np.clip(target, *INSIDE) for target in targets]


def push(env: pusht.PushTEnv, at: NDArray[np.float64]) -> Path2d:
    """Returns the targets of a push. at [4], from 0 to 1: of the eight edges, where on it, in which
    direction, how far."""
    shapes = [
        np.array([env.block.local_to_world(v) for v in s.get_vertices()]) for s in env.block.shapes
    ]
    bar = shapes[int(at[0] * 8) // 4 % 2]
    edge = int(at[0] * 8) % 4
    a, b = bar[edge], bar[(edge + 1) % 4]
    point, along = a + (b - a) * at[1], (b - a) / np.linalg.norm(b - a)
    outward = np.array([along[1], -along[0]])
    if np.dot(outward, point - bar.mean(0)) < 0:
        outward = -outward
    turn = (at[2] - 0.5) * math.radians(70)
    forth = -np.array(
        [
            outward[0] * math.cos(turn) - outward[1] * math.sin(turn),
            outward[0] * math.sin(turn) + outward[1] * math.cos(turn),
        ]
    )
    begin = point - forth * 22
    middle = np.vstack(shapes).mean(0)
    here = np.array(env.agent.position)
    angle, wanted = (math.atan2(*(p - middle)[::-1]) for p in (here, begin))
    sweep = (wanted - angle + math.pi) % (2 * math.pi) - math.pi
    count = math.ceil(abs(sweep) / 0.3)
    arc = [angle + sweep * k / count for k in range(count + 1)] if count else []
    ring = [middle + ROUND * np.array([math.cos(t), math.sin(t)]) for t in arc]
    if float(np.linalg.norm(here - begin)) < 40 and abs(sweep) < 0.6:
        ring = []
    return strides([here, *ring, begin, begin + forth * (8 + 110 * at[3] ** 2)])


def plan(env: pusht.PushTEnv, copy: Copy, generator: np.random.Generator) -> Path2d:
    """Returns the targets of the push that brings the block nearest to its goal."""

    def tried(at: NDArray[np.float64]) -> tuple[float, Path2d]:
        targets = push(env, at)
        copy.take_over(env)
        return copy.follow(targets) + 0.15 * len(targets), targets

    best_at, best = np.zeros(4), (math.inf, [])
    for number in range(TRIED + REFINED):
        at = generator.uniform(size=4)
        if number >= TRIED:
            at = np.clip(best_at + 0.07 * generator.standard_normal(4), 0, 0.999)
        found = tried(at)
        if found[0] < best[0]:
            best_at, best = at, found
    return best[1]


def dataset(folder: Path):  # noqa: ANN201  # LeRobot is imported where it is needed
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    vector = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    picture = {"dtype": "image", "shape": (96, 96, 3), "names": ["height", "width", "channels"]}
    features = {"observation.image": picture, "observation.state": vector, "action": vector}
    return LeRobotDataset.create(
        "local/pusht", RATE_HZ, features, root=folder, robot_type="pusht", use_videos=False
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--first", type=int, default=100_000)
    parser.add_argument("--record", type=Path)
    arguments = parser.parse_args()
    suite, copy = LeRobotSuite("pusht"), Copy()
    environment = suite.environment(suite.tasks[0])
    kept = dataset(arguments.record) if arguments.record else None
    solved, begin = 0, time.monotonic()
    for seed in range(arguments.first, arguments.first + arguments.episodes):
        generator = np.random.default_rng(seed)
        seen, best, done, success, steps = environment.reset(seed), 0.0, False, False, 0
        real = environment.raw
        while not done:
            for target in plan(real, copy, generator):
                action = target.astype(np.float32)
                if kept is not None:
                    shown = {key: value for key, value in seen.items() if key != "task"}
                    kept.add_frame({**shown, "action": action, "task": "push the T to its place"})
                step = environment.step(action)
                seen, done, success, steps = step.observation, step.done, step.success, steps + 1
                best = max(best, step.reward or 0.0)
                if done:
                    break
        if kept is not None:
            kept.save_episode()
        solved += success
        took = time.monotonic() - begin
        print(f"seed {seed}: success {success}, reward {best:.3f}, {steps} steps, {took:.0f} s")
    print(f"{solved} of {arguments.episodes}")
    if kept is not None:
        kept.finalize()
    suite.close()


if __name__ == "__main__":
    main()
