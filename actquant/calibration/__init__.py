"""What is measured on episodes of the robot: frames, losses, statistics of every tensor."""
