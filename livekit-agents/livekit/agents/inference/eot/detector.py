"""`TurnDetector`: a model that hears whether the user is done."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any

from ...log import logger
from ...types import (
    DEFAULT_API_CONNECT_OPTIONS,
    NOT_GIVEN,
    APIConnectOptions,
    NotGivenOr,
)
from ...utils import is_dev_mode, is_given, is_hosted
from ...utils.aio import TaskScope
from .._utils import Gateway
from .base import DEFAULT_SAMPLE_RATE, TurnDetectorOptions, _BaseStreamingTurnDetector
from .languages import (
    CLOUD_MODEL,
    LOCAL_MODEL,
    ThresholdOptions,
    TurnDetectorModels,
    TurnDetectorVersions,
)

if TYPE_CHECKING:
    import aiohttp

    from .._socket import SessionSource
    from .cloud_transport import CloudTransport
    from .stream import TurnDetectorStream
    from .transports import Answer

__all__ = ["TurnDetector", "TurnDetectorModels", "TurnDetectorVersions"]

_ACLOSE_TIMEOUT = 2.0


class TurnDetector(_BaseStreamingTurnDetector):
    """Hears from the audio whether the user is done.

    ::

        AgentSession(turn_detection=inference.TurnDetector(), vad=inference.VAD(), ...)

    The model runs in the process (``"v1-mini"``), or behind the gateway (``"v1"``), with the one in
    the process as a fallback. A session that is given no turn detection uses one of these.
    """

    def __init__(
        self,
        *,
        version: NotGivenOr[TurnDetectorVersions] = NOT_GIVEN,
        unlikely_threshold: NotGivenOr[float | dict[str, float]] = NOT_GIVEN,
        backchannel_threshold: NotGivenOr[float | dict[str, float]] = NOT_GIVEN,
        base_url: NotGivenOr[str] = NOT_GIVEN,
        api_key: NotGivenOr[str] = NOT_GIVEN,
        api_secret: NotGivenOr[str] = NOT_GIVEN,
        sample_rate: int = DEFAULT_SAMPLE_RATE,
        local_fallback: bool = True,
        http_session: aiohttp.ClientSession | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> None:
        """Choose a model. It is loaded, or connected to, when a stream hears its first frame.

        Args:
            version: ``"v1"`` behind the gateway, ``"v1-mini"`` in the process. By default the
                former where the agent is hosted or being developed, else the latter.
            unlikely_threshold: Probability below which the user isn't done, in place of the
                calibrated ones: for all languages, or some.
            backchannel_threshold: Probability from which a short reaction fits.
            base_url: Of the gateway; `LIVEKIT_INFERENCE_URL` by default.
            api_key: `LIVEKIT_INFERENCE_API_KEY` or `LIVEKIT_API_KEY` by default.
            api_secret: `LIVEKIT_INFERENCE_API_SECRET` or `LIVEKIT_API_SECRET` by default.
            sample_rate: Of the audio the gateway gets, in Hz. The local model takes 16000.
            local_fallback: Let the local model take over when the gateway fails.
            http_session: What to connect with; that of the job by default. It is yours to close.
            conn_options: The connect timeout.

        Raises:
            ValueError: `version` is ``"v1"`` and credentials are missing, or it is unknown.
        """
        if is_given(version) and version not in ("v1", "v1-mini"):
            raise ValueError(f"version must be 'v1' or 'v1-mini', got {version!r}")
        wants_cloud = version == "v1" if is_given(version) else is_hosted() or is_dev_mode()
        self._gateway: Gateway | None = None
        if wants_cloud:
            try:
                self._gateway = Gateway.resolve(
                    base_url=base_url, api_key=api_key, api_secret=api_secret
                )
            except ValueError as error:
                if is_given(version):
                    raise
                logger.warning("turn detection uses the local model: %s", error)
        elif not local_fallback:
            logger.warning("local_fallback=False means nothing for the local turn detector")
        model = CLOUD_MODEL if self._gateway is not None else LOCAL_MODEL
        super().__init__(
            TurnDetectorOptions(
                sample_rate=sample_rate if self._gateway is not None else DEFAULT_SAMPLE_RATE,
                thresholds=ThresholdOptions(model, unlikely_threshold, backchannel_threshold),
            )
        )
        self._local_fallback = local_fallback
        self._http_session = http_session
        self._session: SessionSource | None = None
        self._conn_options = conn_options
        self._streams: weakref.WeakSet[TurnDetectorStream] = weakref.WeakSet()
        self._closed = False

    @property
    def model(self) -> str:
        """`"turn-detector-v1"` or `"turn-detector-v1-mini"`."""
        return self._opts.thresholds.model

    def describe_options(self) -> dict[str, Any]:
        """The options that matter, for traces."""
        thresholds = self._opts.thresholds
        options: dict[str, Any] = {
            "model": self.model,
            "provider": self.provider,
            "sample_rate": self._opts.sample_rate,
            "local_fallback": self._local_fallback,
        }
        if thresholds.overrides is not None:
            options["threshold_overrides"] = thresholds.overrides
        if thresholds.backchannel_overrides is not None:
            options["backchannel_threshold_overrides"] = thresholds.backchannel_overrides
        return options

    def stream(
        self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> TurnDetectorStream:
        """Start to listen: nothing happens before the first frame.

        Args:
            conn_options: The connect timeout, if another than that of the object.

        Raises:
            RuntimeError: The detector was closed, or no event loop is running.
        """
        if self._closed:
            raise RuntimeError("this TurnDetector is closed: make another one")
        from .stream import TurnDetectorStream

        if conn_options is DEFAULT_API_CONNECT_OPTIONS:
            conn_options = self._conn_options
        own = self._opts.thresholds
        stream = TurnDetectorStream(
            self,
            # Each stream its own: one that falls back must not decide for those after it.
            thresholds=ThresholdOptions(
                own.model,
                NOT_GIVEN if own.overrides is None else own.overrides,
                NOT_GIVEN if own.backchannel_overrides is None else own.backchannel_overrides,
            ),
            sample_rate=self._opts.sample_rate,
            local_fallback=self._local_fallback,
            open_cloud=None
            if self._gateway is None
            else lambda stream: self._open_cloud(stream, conn_options),
        )
        self._streams.add(stream)
        return stream

    def _open_cloud(
        self, stream: TurnDetectorStream, conn_options: APIConnectOptions
    ) -> CloudTransport:
        from .._socket import SessionSource
        from .cloud_transport import CloudTransport, CloudTransportOptions

        assert self._gateway is not None
        if self._session is None:
            self._session = SessionSource(self._http_session)
        return CloudTransport(
            CloudTransportOptions(
                gateway=self._gateway,
                session=self._session,
                sample_rate=self._opts.sample_rate,
                conn_options=conn_options,
            ),
            stream._on_answer,
            stream._on_session,
            stream._leave_cloud,
        )

    def update_options(
        self,
        *,
        unlikely_threshold: NotGivenOr[float | dict[str, float] | None] = NOT_GIVEN,
        backchannel_threshold: NotGivenOr[float | dict[str, float] | None] = NOT_GIVEN,
    ) -> None:
        """Change thresholds, of running streams as well.

        Args:
            unlikely_threshold: As for the constructor; None: the calibrated ones.
            backchannel_threshold: Likewise.
        """
        everybody = [self._opts.thresholds, *(s._thresholds for s in list(self._streams))]
        for thresholds in everybody:
            if is_given(unlikely_threshold):
                thresholds.update_overrides(unlikely_threshold)
            if is_given(backchannel_threshold):
                thresholds.update_backchannel_overrides(backchannel_threshold)

    async def aclose(self) -> None:
        """Close all streams, in two seconds at most. Idempotent."""
        self._closed = True
        scope = TaskScope(self._label)
        for stream in list(self._streams):
            scope.spawn(stream.aclose(), name="close a stream")
        await scope.join(_ACLOSE_TIMEOUT)

    def _report(self, answer: Answer, model: str) -> None:
        from ...metrics.base import EOTInferenceMetrics, Metadata

        self.emit(
            "metrics_collected",
            EOTInferenceMetrics(
                timestamp=time.time(),
                total_duration=answer.total_duration,
                prediction_duration=answer.inference_duration,
                detection_delay=answer.detection_delay,
                metadata=Metadata(model_name=model, model_provider=self.provider),
            ),
        )
