"""A telephone call without a telephone: a caller, a line, and what can be seen of the call."""
