"""Many files of one checkpoint side by side: sizes, action errors, successes, and a page."""
