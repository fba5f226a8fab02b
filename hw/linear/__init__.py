"""Ternary table-lookup engine."""
