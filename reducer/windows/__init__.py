"""Rows of all protocols by event time, until their window closes."""
