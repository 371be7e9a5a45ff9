"""A policy file drives an arm: checks before motion, the control loop, recording, the report."""
