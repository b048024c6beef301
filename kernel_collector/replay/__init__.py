"""What the kernel gave, recorded and played again."""
