"""A policy that acts: protocol, observation window, noise, scheduling of chunks."""
