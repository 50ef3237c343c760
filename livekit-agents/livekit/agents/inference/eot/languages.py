"""From which probability on a turn counts as over, for each language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ...language import LanguageCode
from ...log import logger
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given

TurnDetectorModels = Literal["turn-detector-v1", "turn-detector-v1-mini"]
TurnDetectorVersions = Literal["v1", "v1-mini"]

CLOUD_MODEL: TurnDetectorModels = "turn-detector-v1"
LOCAL_MODEL: TurnDetectorModels = "turn-detector-v1-mini"

LOCAL_LANGUAGES: dict[str, float] = {
    "ar": 0.35,
    "de": 0.245,
    "en": 0.36,
    "es": 0.35,
    "fr": 0.285,
    "hi": 0.305,
    "id": 0.345,
    "it": 0.23,
    "ja": 0.295,
    "ko": 0.40,
    "nl": 0.20,
    "pt": 0.32,
    "tr": 0.255,
    "zh": 0.355,
}
"""Thresholds of the local model."""

_DEFAULT_LANGUAGE = "en"

Overrides = NotGivenOr["float | Mapping[str, float] | None"]


class ThresholdOptions:
    """Thresholds: those of the model, and what the user puts in their place.

    Args:
        model: Whose thresholds.
        overrides: One for all languages, or some languages' own.
        backchannel_overrides: The same for short reactions. Their thresholds come from the gateway.
    """

    def __init__(
        self,
        model: TurnDetectorModels,
        overrides: Overrides = NOT_GIVEN,
        backchannel_overrides: Overrides = NOT_GIVEN,
    ) -> None:
        self._model = model
        self._overrides = _normalized(overrides)
        self._backchannel_overrides = _normalized(backchannel_overrides)
        self._defaults: dict[str, float] = {}
        self._default: float | None = None
        self._backchannel: dict[str, float] = {}
        self._default_backchannel: float | None = None
        if model == LOCAL_MODEL:
            self._use_local()
        for given in (self._overrides, self._backchannel_overrides):
            if given is not None:
                _warn_about_calibration()

    def _use_local(self) -> None:
        self._defaults = dict(LOCAL_LANGUAGES)
        self._default = LOCAL_LANGUAGES[_DEFAULT_LANGUAGE]

    @property
    def model(self) -> TurnDetectorModels:
        """Whose thresholds these are."""
        return self._model

    @property
    def overrides(self) -> float | dict[str, float] | None:
        """What the user put in their place."""
        return self._overrides

    @property
    def backchannel_overrides(self) -> float | dict[str, float] | None:
        """What the user put in place of those for short reactions."""
        return self._backchannel_overrides

    @property
    def default_threshold(self) -> float | None:
        """For languages that have none of their own; None as long as the gateway hasn't told."""
        if isinstance(self._overrides, float):
            return self._overrides
        return self._default

    @property
    def thresholds(self) -> dict[str, float]:
        """By language, overrides included."""
        if isinstance(self._overrides, dict):
            return {**self._defaults, **self._overrides}
        if self._overrides is not None:
            return dict.fromkeys(self._defaults, self._overrides)
        return dict(self._defaults)

    def lookup(self, language: LanguageCode | None) -> float | None:
        """The threshold for a language; None when it is not known yet."""
        if isinstance(self._overrides, float):
            return self._overrides
        if self._default is None:
            return None
        return self.thresholds.get(_base(language), self._default)

    def lookup_backchannel(self, language: LanguageCode | None) -> float | None:
        """The threshold for short reactions; None when they aren't judged."""
        overrides = self._backchannel_overrides
        if isinstance(overrides, float):
            return overrides or None
        thresholds = {**self._backchannel, **(overrides or {})}
        return thresholds.get(_base(language), self._default_backchannel) or None

    def supports(self, language: LanguageCode | None) -> bool:
        """Whether a language can be judged, as far as is known yet."""
        return self._default is None or self.lookup(language) is not None

    def update_overrides(self, overrides: Overrides) -> None:
        """Put others in place of the model's thresholds. Not given or None: none."""
        self._overrides = _normalized(overrides)
        if self._overrides is not None:
            _warn_about_calibration()

    def update_backchannel_overrides(self, overrides: Overrides) -> None:
        """The same for short reactions."""
        self._backchannel_overrides = _normalized(overrides)
        if self._backchannel_overrides is not None:
            _warn_about_calibration()

    def _set_cloud_defaults(
        self,
        thresholds: Mapping[str, float],
        default: float,
        backchannel: Mapping[str, float],
        default_backchannel: float,
    ) -> None:
        """What the gateway says.

        Raises:
            ValueError: It says nothing.
        """
        if not thresholds or default <= 0:
            raise ValueError("the gateway sent no thresholds for the turn detector")
        self._defaults = {_base(LanguageCode(k)): round(v, 4) for k, v in thresholds.items()}
        self._default = round(default, 4)
        self._backchannel = {_base(LanguageCode(k)): round(v, 4) for k, v in backchannel.items()}
        self._default_backchannel = round(default_backchannel, 4) or None

    def _fall_back(self) -> None:
        """The local model takes over: carry the user's intent over to its scale."""
        cloud, cloud_default = self._defaults, self._default
        effective = self.thresholds
        self._model = LOCAL_MODEL
        self._backchannel = {}
        self._default_backchannel = None
        self._backchannel_overrides = None
        self._use_local()
        if cloud_default is None:
            return
        scaled = {
            language: LOCAL_LANGUAGES[language] * effective[language] / threshold
            for language, threshold in cloud.items()
            if language in LOCAL_LANGUAGES and threshold
        }
        self._defaults.update(scaled)
        self._overrides = None


def _normalized(overrides: Overrides) -> float | dict[str, float] | None:
    if not is_given(overrides) or overrides is None:
        return None
    if isinstance(overrides, Mapping):
        return {_base(LanguageCode(key)): float(value) for key, value in overrides.items()}
    return float(overrides)


def _base(language: LanguageCode | None) -> str:
    return language.language if language else _DEFAULT_LANGUAGE


def _warn_about_calibration() -> None:
    logger.warning(
        "the turn detector has thresholds calibrated for each language, yours take their place"
    )
