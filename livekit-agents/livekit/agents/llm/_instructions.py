"""`Instructions`: what an agent is told to be, in the wording each modality needs."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..log import logger


class Instructions:
    """Instructions with additions for voice or text, and a part that changes often.

    A provider's prompt cache only helps with a prefix that stays the same; what changes from turn
    to turn belongs in `dynamic`, which is sent in a message of its own.

    Args:
        common: Always included; what `str(instructions)` returns.
        audio: Added when the user speaks.
        text: Added when the user writes.
        dynamic: Kept apart from the rest, and sent right after it.
    """

    def __init__(
        self,
        common: str = "",
        *,
        audio: str | None = None,
        text: str | None = None,
        dynamic: str | None = None,
    ) -> None:
        self.common = common
        self.audio = audio
        self.text = text
        self.dynamic = dynamic

    def render_static(self, *, modality: Literal["audio", "text"] | None = None) -> str:
        """The instructions without `dynamic`: `common` and the addition for `modality`."""
        addition = {"audio": self.audio, "text": self.text}[modality] if modality else None
        return "\n\n".join(part for part in (self.common, addition) if part)

    def render(
        self,
        *,
        modality: Literal["audio", "text"] | None = None,
        data: dict[str, Any] | None = None,
    ) -> str:
        """The instructions in full.

        Args:
            modality: Which addition to include; none by default.
            data: Values for `{name}` placeholders; `{user.name}` reaches into nested dicts.
                Missing or None values become empty. Without data, braces stay as they are.

        Raises:
            ValueError: With `data`, if the text has unbalanced braces.
        """
        static = self.render_static(modality=modality)
        rendered = "\n".join(part for part in (static, self.dynamic) if part)
        return _fill(rendered, data) if data else rendered

    @staticmethod
    def resolve_template(template: str, **kwargs: Any) -> Instructions:
        """Fill a `str.format` template whose values may be `Instructions`.

        Such a value stands for its `audio` (or `text`) when that is not None, else for its
        `common`; so an empty string removes a section. The result has `audio` and `text` when
        these differ, else only `common`; never `dynamic`.

        Raises:
            KeyError: If the template names a value that was not given.
        """
        audio = template.format(**{key: _variant(v, "audio") for key, v in kwargs.items()})
        text = template.format(**{key: _variant(v, "text") for key, v in kwargs.items()})
        return Instructions(audio) if audio == text else Instructions(audio=audio, text=text)

    def _parts(self) -> tuple[str, str | None, str | None, str | None]:
        return (self.common, self.audio, self.text, self.dynamic)

    def __str__(self) -> str:
        return self.common

    def __repr__(self) -> str:
        dynamic = "" if self.dynamic is None else f", dynamic={self.dynamic!r}"
        return f"Instructions({self.common!r}{dynamic})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Instructions):
            return self._parts() == other._parts()
        if isinstance(other, str):
            return not any(self._parts()[1:]) and self.common == other
        return NotImplemented

    def __hash__(self) -> int:
        # Equal to its common text when that is all there is, so it has to hash like it.
        return hash(self._parts()) if any(self._parts()[1:]) else hash(self.common)


def _variant(value: Any, modality: Literal["audio", "text"]) -> Any:
    if not isinstance(value, Instructions):
        return value
    addition = value.audio if modality == "audio" else value.text
    return value.common if addition is None else addition


class _Blank:
    """Stands for a missing value: empty whatever format its placeholder asks for."""

    def __format__(self, spec: str) -> str:
        return ""


class _DictFormatter(string.Formatter):
    """Like `str.format`, but dots reach into dicts only, and missing values are blank."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def get_field(
        self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Any, str]:
        value: Any = kwargs
        for key in field_name.split("."):
            if not isinstance(value, Mapping) or key not in value:
                self.missing.append(field_name)
                return _Blank(), field_name
            value = value[key]
        return (_Blank() if value is None else value), field_name

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if isinstance(value, _Blank):
            return value
        return super().convert_field(value, conversion)

    def check_unused_args(self, *_: Any) -> None:
        """Data that no placeholder names is fine."""


def _fill(text: str, data: Mapping[str, Any]) -> str:
    formatter = _DictFormatter()
    filled = formatter.vformat(text, (), data)
    if formatter.missing:
        logger.warning(
            "instructions name values that were not given, they are left empty",
            extra={"missing": formatter.missing},
        )
    return filled
