"""Decisions by a model behind the inference gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import aiohttp

from ..llm._systemone import decode_answers, encode_decisions
from ..llm.decisions import (
    Decision,
    DecisionCapabilities,
    DecisionModel as BaseDecisionModel,
    DecisionResponse,
)
from ..types import NOT_GIVEN, NotGivenOr
from ._requests import post_json
from ._socket import SessionSource
from ._utils import Gateway

if TYPE_CHECKING:
    from ..types import APIConnectOptions

__all__ = ["DecisionModel", "DecisionModels"]

DecisionModels = Literal["openai/gpt-6-luna-decisions"]

SERVICE = "LiveKit Inference decisions"


class DecisionModel(BaseDecisionModel):
    """Answers questions about a text with a model that LiveKit serves."""

    def __init__(
        self,
        model: DecisionModels | str = "openai/gpt-6-luna-decisions",
        *,
        base_url: NotGivenOr[str] = NOT_GIVEN,
        api_key: NotGivenOr[str] = NOT_GIVEN,
        api_secret: NotGivenOr[str] = NOT_GIVEN,
        http_session: aiohttp.ClientSession | None = None,
    ) -> None:
        """Choose a model. Nothing is connected yet.

        Args:
            model: ``"provider/model"``.
            base_url: Of the gateway; `LIVEKIT_INFERENCE_URL` by default.
            api_key: `LIVEKIT_INFERENCE_API_KEY` or `LIVEKIT_API_KEY` by default.
            api_secret: `LIVEKIT_INFERENCE_API_SECRET` or `LIVEKIT_API_SECRET` by default.
            http_session: What to send requests with; that of the job by default.

        Raises:
            ValueError: Credentials are missing.
        """
        super().__init__(
            capabilities=DecisionCapabilities(
                decision_kinds=frozenset({"probability", "choice", "score"})
            )
        )
        self._model = model
        self._gateway = Gateway.resolve(
            base_url=base_url or NOT_GIVEN,
            api_key=api_key or NOT_GIVEN,
            api_secret=api_secret or NOT_GIVEN,
        )
        self._session = SessionSource(http_session)

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model

    @property
    def provider(self) -> str:
        """`"livekit"`."""
        return "livekit"

    async def _evaluate_impl(
        self,
        *,
        input: str,
        decisions: Mapping[str, Decision],
        conn_options: APIConnectOptions,
    ) -> DecisionResponse:
        reply = await post_json(
            self._session.get(),
            self._gateway,
            "/decisions",
            {"model": self._model, "state": input, "questions": encode_decisions(decisions)},
            service=SERVICE,
            timeout=aiohttp.ClientTimeout(total=conn_options.timeout),
        )
        answers = reply.body.get("answers")
        results, errors = decode_answers(answers if isinstance(answers, Mapping) else {}, decisions)
        usage = reply.body.get("usage")
        tokens = usage if isinstance(usage, Mapping) else {}
        request_id = reply.body.get("id")
        return DecisionResponse(
            results=results,
            errors=errors,
            model=str(reply.body.get("model") or self._model),
            provider=self.provider,
            request_id=request_id if isinstance(request_id, str) else reply.request_id,
            input_tokens=_count(tokens.get("input_tokens")),
            output_tokens=_count(tokens.get("output_tokens")),
        )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
