"""Hearing: from the user's audio to the user's turns.

State machines that know neither audio nor event loop, and the thin drivers that feed them.
"""
