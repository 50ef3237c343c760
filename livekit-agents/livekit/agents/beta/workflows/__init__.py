"""Helpers for agents that collect something from a caller."""
