"""TCP: what the kernel tells of its sockets, and what they did since their last row."""
