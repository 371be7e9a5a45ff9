"""What every room uses: errors, atomic files and hashes, time, progress, interrupts, statistics."""
