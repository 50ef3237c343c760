"""Language codes, however a provider or a user spells them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._language_data import ISO_639_3_TO_1, LANGUAGE_NAMES_TO_CODE

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

# "slovene" and "slovenian" share a code: the first name in the alphabet is its name.
_CODE_TO_NAME = {code: name for name, code in sorted(LANGUAGE_NAMES_TO_CODE.items(), reverse=True)}


class LanguageCode(str):
    """A language tag in the form of BCP 47 (RFC 5646), such as ``en``, ``pt-BR`` or ``zh-Hans-CN``.

    It is a ``str`` and compares as one. The input may be an English name (``"German"`` -> ``de``),
    an ISO 639-3 code (``"deu"`` -> ``de``) or a tag in any case and with ``_`` for ``-``
    (``"PT_br"`` -> ``pt-BR``). What is not known passes through in lower case.
    """

    def __new__(cls, code: str) -> LanguageCode:
        return super().__new__(cls, _normalized(code))

    @property
    def language(self) -> str:
        """The language without script and region, as ISO 639-1 where that has a code."""
        first = self.split("-", 1)[0]
        return ISO_639_3_TO_1.get(first, first)

    @property
    def region(self) -> str | None:
        """The ISO 3166-1 country code, such as ``US``, or None."""
        return next((part for part in self.split("-")[1:] if len(part) == 2), None)

    @property
    def iso(self) -> str:
        """`language`, followed by ``-`` and `region` if there is one."""
        region = self.region
        return self.language if region is None else f"{self.language}-{region}"

    def to_language_name(self) -> str | None:
        """The English name of `language` in lower case, or None when it is not known."""
        return _CODE_TO_NAME.get(self.language)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(
            cls,
            core_schema.str_schema(),
            serialization=core_schema.to_string_ser_schema(),
        )


def _normalized(code: str) -> str:
    code = code.strip().lower()
    known = LANGUAGE_NAMES_TO_CODE.get(code) or ISO_639_3_TO_1.get(code)
    if known is not None:
        return known
    first, *others = code.replace("_", "-").split("-")
    # a script has four letters (ISO 15924); everything else after the language is upper case
    return "-".join([first, *(p.title() if len(p) == 4 else p.upper() for p in others)])
