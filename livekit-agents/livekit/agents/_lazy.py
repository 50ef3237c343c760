"""Package attributes that are imported when they are first used (PEP 562).

A package ``__init__`` lists where each public name lives and pays for a name only when somebody
asks for it::

    __getattr__, __dir__ = attach(
        __name__,
        {
            "STT": ".stt",                 # attribute STT of the submodule .stt
            "SpeechStream": ".stt:RecognizeStream",  # the same object under another name
            "utils": ".utils:",            # the submodule itself
        },
    )
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["attach"]


def attach(
    module_name: str, names: dict[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the module hooks that resolve ``names`` on first access.

    A resolved object is stored in the module's globals, so the hook runs once per name.

    A public name must not equal the last part of the module it lives in (``"sleep": ".sleep"``):
    importing that submodule by path would put the module in place of the object. Import such a
    name eagerly.

    Args:
        module_name: ``__name__`` of the package that calls.
        names: public name -> ``"module"`` (attribute of the same name), ``"module:attribute"`` or
            ``"module:"`` (the module itself). A leading dot makes the module relative to the
            package.

    Returns:
        The module-level ``__getattr__`` and ``__dir__``.

    Raises:
        AttributeError: from the returned ``__getattr__`` for a name that is not listed.
    """

    def __getattr__(name: str) -> Any:
        target = names.get(name)
        if target is None:
            raise AttributeError(f"module {module_name!r} has no attribute {name!r}")
        path, colon, attribute = target.partition(":")
        value: Any = importlib.import_module(path, module_name)
        if attribute or not colon:
            value = getattr(value, attribute or name)
        sys.modules[module_name].__dict__[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*sys.modules[module_name].__dict__, *names})

    return __getattr__, __dir__
