"""Processes and their communication; part of the worker, which this version does not have."""
