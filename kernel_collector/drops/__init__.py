"""Packets that the kernel dropped."""
