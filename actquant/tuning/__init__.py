"""Training what a file can hold beside its levels, so that its actions come closer to f32's."""
