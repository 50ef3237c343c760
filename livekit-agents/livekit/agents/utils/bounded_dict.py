"""A dict that forgets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedDict(OrderedDict[K, V]):
    """An ordered dict that drops its oldest entries to stay within a size.

    Attributes:
        maxsize: greatest number of entries; None: no limit.
    """

    def __init__(self, maxsize: int | None = None) -> None:
        """Make an empty dict.

        Raises:
            ValueError: ``maxsize`` is less than 1.
        """
        if maxsize is not None and maxsize < 1:
            raise ValueError(f"maxsize must be at least 1 or None, got {maxsize}")
        self.maxsize = maxsize
        super().__init__()

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        while self.maxsize is not None and len(self) > self.maxsize:
            self.popitem(last=False)

    def update_value(self, key: K, **kwargs: Any) -> V | None:
        """Set attributes of the value under ``key``; does nothing without such a key.

        Args:
            key: the entry.
            **kwargs: attribute -> value. None, and attributes that the value does not have, are
                skipped.

        Returns:
            The value under ``key``, or None.
        """
        value = self.get(key)
        if value is not None:
            for name, field in kwargs.items():
                if field is not None and hasattr(value, name):
                    setattr(value, name, field)
        return value

    def pop_if(self, predicate: Callable[[V], bool] | None = None) -> tuple[K | None, V | None]:
        """Remove one entry and return its key and value.

        Args:
            predicate: the newest entry whose value it accepts is removed; without it the oldest.

        Returns:
            ``(None, None)`` when nothing was removed.
        """
        if predicate is None:
            return self.popitem(last=False) if self else (None, None)
        for key in reversed(self):
            if predicate(self[key]):
                return key, self.pop(key)
        return None, None
