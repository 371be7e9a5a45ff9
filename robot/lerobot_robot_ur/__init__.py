"""UR3e and UR3: a LeRobot robot, and a fake controller (`lerobot_robot_ur.controller`)."""
