"""Rows to directed flows: each byte and each request once, whichever ends tell of it."""
