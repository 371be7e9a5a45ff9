"""One file a recipe: what statistics it needs, how it allocates, how it encodes."""
