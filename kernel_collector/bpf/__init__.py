"""BPF objects, and how they are loaded, read and measured."""
