"""Directed flows to series: by pair of ends, by level, within a budget."""
