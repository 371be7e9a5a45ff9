"""A policy in a robot that runs ROS 2: topics in, trajectories out."""
