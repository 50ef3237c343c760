"""How an agent speaks: one file per way, all through the same playout and tool loop."""

from .entry import Replies

__all__ = ["Replies"]
