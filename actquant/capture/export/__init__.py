"""From a PyTorch module to IR: torch.export and the lowering of each ATen operator."""
