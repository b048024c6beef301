"""The machine itself: its names, addresses, network namespaces, and what its cloud says of it."""
