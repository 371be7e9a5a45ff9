"""Where weights live: parameters that stay on disk, checkpoints on the Hugging Face hub."""
