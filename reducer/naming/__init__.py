"""Who the ends of flows are, and their labels."""
