"""The collector of a node: reads the kernel, turns socket counters into rows, sends them."""
