"""What a job says about its own outcome."""

from __future__ import annotations

from typing import Any, Literal

__all__ = ["Tagger"]

_SUCCESS = "lk.success"
_FAIL = "lk.fail"


class Tagger:
    """Tags of a job, its outcome, and the judgements passed on it. Part of the session's report."""

    def __init__(self) -> None:
        """Start without any."""
        self._tags: dict[str, dict[str, Any] | None] = {}
        self._evaluations: list[dict[str, Any]] = []
        self._reason: str | None = None

    def success(self, reason: str | None = None) -> None:
        """The job reached its goal. Replaces an earlier outcome."""
        self._set_outcome(_SUCCESS, _FAIL, reason)

    def fail(self, reason: str | None = None) -> None:
        """The job did not reach its goal. Replaces an earlier outcome."""
        self._set_outcome(_FAIL, _SUCCESS, reason)

    def add(self, tag: str, *, metadata: dict[str, Any] | None = None) -> None:
        """Add a tag, or replace its metadata."""
        self._tags[tag] = metadata

    def remove(self, tag: str) -> None:
        """Remove a tag. One that is not there is fine."""
        self._tags.pop(tag, None)

    @property
    def tags(self) -> set[str]:
        """All tags; a copy."""
        return set(self._tags)

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The judgements: name, tag, verdict, reasoning and instructions each; a copy."""
        return list(self._evaluations)

    @property
    def outcome(self) -> Literal["success", "fail"] | None:
        """Whether the job reached its goal; None when nobody said."""
        if _SUCCESS in self._tags:
            return "success"
        return "fail" if _FAIL in self._tags else None

    @property
    def outcome_reason(self) -> str | None:
        """Why."""
        return self._reason if self.outcome is not None else None

    def _set_outcome(self, tag: str, other: str, reason: str | None) -> None:
        self._tags.pop(other, None)
        self._tags[tag] = {"reason": reason} if reason is not None else None
        self._reason = reason

    def _evaluation(self, result: Any) -> None:
        """Take the judgements of an evaluation (`name -> judgement` in `result.judgments`)."""
        for name, judgement in result.judgments.items():
            tag = f"lk.judge.{name}:{judgement.verdict}"
            self.add(tag)
            self._evaluations.append(
                {
                    "name": name,
                    "tag": tag,
                    "verdict": judgement.verdict,
                    "reasoning": judgement.reasoning,
                    "instructions": getattr(judgement, "instructions", None),
                }
            )
