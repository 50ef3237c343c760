"""Exponential smoothing."""

from __future__ import annotations

from ..types import NOT_GIVEN, NotGivenOr
from .misc import is_given


class ExpFilter:
    """An exponentially weighted moving average of samples that may be unevenly spaced."""

    def __init__(
        self,
        alpha: float,
        max_val: NotGivenOr[float] = NOT_GIVEN,
        min_val: NotGivenOr[float] = NOT_GIVEN,
        initial: NotGivenOr[float] = NOT_GIVEN,
    ) -> None:
        """Set up a filter.

        Args:
            alpha: weight of the history, 0 < alpha <= 1; nearer to 1 is smoother.
            max_val: upper limit of the value.
            min_val: lower limit of the value.
            initial: value before the first sample; without it the first sample is taken as it is.

        Raises:
            ValueError: ``alpha`` is out of range.
        """
        self._alpha = _checked(alpha)
        self._max = max_val
        self._min = min_val
        self._initial = initial
        self._value = initial

    def apply(self, exp: float, sample: NotGivenOr[float] = NOT_GIVEN) -> float:
        """Take a sample in and return the new value.

        Args:
            exp: how many steps the sample covers, as an exponent of ``alpha``: 1 for even spacing.
            sample: without it the value stays and is limited to the range.

        Raises:
            ValueError: there is no sample and was none before.
        """
        if is_given(sample) and is_given(self._value):
            history = self._alpha**exp
            self._value = self._limited(history * self._value + (1.0 - history) * sample)
        elif is_given(sample):
            self._value = self._limited(sample)
        elif is_given(self._value):
            self._value = self._limited(self._value)
        else:
            raise ValueError("the filter has no value yet: pass a sample, or an initial value")
        return self._value

    def reset(
        self,
        alpha: NotGivenOr[float] = NOT_GIVEN,
        initial: NotGivenOr[float] = NOT_GIVEN,
        min_val: NotGivenOr[float] = NOT_GIVEN,
        max_val: NotGivenOr[float] = NOT_GIVEN,
    ) -> None:
        """Change what is given and keep the rest; without arguments, forget all samples.

        Args:
            alpha: weight of the history.
            initial: the new value, also after later resets.
            min_val: lower limit.
            max_val: upper limit.

        Raises:
            ValueError: ``alpha`` is out of range.
        """
        if is_given(alpha):
            self._alpha = _checked(alpha)
        if is_given(min_val):
            self._min = min_val
        if is_given(max_val):
            self._max = max_val
        if is_given(initial):
            self._initial = initial
        if is_given(initial) or not any(is_given(arg) for arg in (alpha, min_val, max_val)):
            self._value = self._initial

    def update_base(self, alpha: float) -> None:
        """Change the weight of the history.

        Raises:
            ValueError: it is out of range.
        """
        self._alpha = _checked(alpha)

    @property
    def value(self) -> float | None:
        """The current value; None before the first sample."""
        return self._value if is_given(self._value) else None

    def _limited(self, value: float) -> float:
        if is_given(self._max):
            value = min(value, self._max)
        if is_given(self._min):
            value = max(value, self._min)
        return value


def _checked(alpha: float) -> float:
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be greater than 0 and at most 1, got {alpha!r}")
    return alpha
