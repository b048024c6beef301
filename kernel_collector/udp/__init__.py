"""UDP: what sockets exchanged with each peer."""
