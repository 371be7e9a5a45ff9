"""Cartesian control of a UR3e or UR3, for the simulated arm and the real one alike.

It needs NumPy and a solver of quadratic programs, and no simulator: a robot's computer installs it
with the driver `lerobot_robot_ur`, a simulation with `lerobot_env_ur3e`.
"""
