"""Joins what the collectors see of each flow, names its ends, and exports metrics."""
