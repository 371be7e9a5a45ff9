"""How far a file is from PyTorch: parity, action error, self-test."""
