"""Address translation: what the kernel's connection tracking knows, and the endpoints that rows get by it."""
