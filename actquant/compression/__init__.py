"""From a checkpoint to one file: the pipeline, its work folder, its report."""
