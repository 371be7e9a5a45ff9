"""From weights to blocks of a tensor type."""
