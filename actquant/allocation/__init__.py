"""A type for every quantizable tensor under a budget on the size of the whole file."""
