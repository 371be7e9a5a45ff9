"""Simulated worlds in which a policy acts: the protocol and one file an environment."""
