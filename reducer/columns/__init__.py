"""Columns that take little memory, what is found in them, and what flows and series have of them."""
