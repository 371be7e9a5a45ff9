"""The model file: schema, keys, container, tensor types, golden values (docs/format.md)."""
