"""Columns of rows, found and copied whole."""
