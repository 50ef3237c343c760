"""Simulated conversations: what a job learns of the simulation it is part of, and its verdict."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

from google.protobuf.json_format import Parse, ParseError
from livekit.protocol import agent_simulation as _proto

from .log import logger

if TYPE_CHECKING:
    from .job import JobContext

__all__ = [
    "Scenario",
    "ScenarioGroup",
    "ScenarioUserdata",
    "SimulationContext",
    "SimulationDispatch",
    "SimulationMode",
    "SimulationRun",
    "SimulationVerdict",
]

Scenario = _proto.Scenario
ScenarioGroup = _proto.ScenarioGroup
SimulationDispatch = _proto.SimulationDispatch
SimulationMode = _proto.SimulationMode
SimulationRun = _proto.SimulationRun
ScenarioUserdata = dict[str, Union["ScenarioUserdata", Any]]

_DISPATCH_ATTRIBUTE = "lk.simulator.dispatch"
_PRIORITY_HEADER = "X-LiveKit-Inference-Priority"


@dataclass
class SimulationVerdict:
    """Whether a simulated conversation went as it should."""

    success: bool
    reason: str


class SimulationContext:
    """The simulation that a job is part of."""

    def __init__(self, dispatch: _proto.SimulationDispatch, job_ctx: JobContext) -> None:
        """Built by the framework, see `JobContext.simulation_context`."""
        self._dispatch = dispatch
        self._job_ctx = job_ctx
        self._run = _proto.SimulationRun(id=dispatch.simulation_run_id)
        self._simulator_verdict: SimulationVerdict | None = None
        self._user_verdict: SimulationVerdict | None = None

    @property
    def scenario(self) -> _proto.Scenario:
        """What is simulated."""
        return self._dispatch.scenario

    @property
    def simulation_mode(self) -> int:
        """Text or audio; text when nothing was said."""
        return self._dispatch.mode or SimulationMode.SIMULATION_MODE_TEXT

    @property
    def simulation_run_id(self) -> str:
        """Id of the run."""
        return self._dispatch.simulation_run_id

    @property
    def simulation_job_id(self) -> str:
        """Id of this conversation within the run."""
        return self._dispatch.job_id

    @property
    def simulation_run(self) -> _proto.SimulationRun | None:
        """The run, of which only the id is known; None before the end of the simulation."""
        return self._run if self._simulator_verdict is not None else None

    @property
    def simulator_verdict(self) -> SimulationVerdict:
        """What the simulator says. Raises RuntimeError before the end."""
        if self._simulator_verdict is None:
            raise RuntimeError("the simulator gives its verdict at the end of the simulation")
        return self._simulator_verdict

    @property
    def user_verdict(self) -> SimulationVerdict | None:
        """What `fail` said, if it was called."""
        return self._user_verdict

    @property
    def job_context(self) -> JobContext:
        """The job."""
        return self._job_ctx

    def userdata(self) -> ScenarioUserdata:
        """What the author of the scenario passes along."""
        text = self._dispatch.scenario.userdata
        decoded: ScenarioUserdata = json.loads(text) if text else {}
        return decoded

    def fail(self, reason: str = "") -> None:
        """The conversation failed, whatever the simulator says. The last reason counts."""
        self._user_verdict = SimulationVerdict(False, reason)

    def _inference_headers(self) -> dict[str, str]:
        text = self.simulation_mode == SimulationMode.SIMULATION_MODE_TEXT
        return {_PRIORITY_HEADER: "low"} if text else {}


def _from_job(job_ctx: JobContext) -> SimulationContext | None:
    """The simulation that the attributes of a job tell of; None when it is none."""
    text = job_ctx.job.attributes.get(_DISPATCH_ATTRIBUTE, "")
    if not text:
        return None
    try:
        dispatch = Parse(text, _proto.SimulationDispatch(), ignore_unknown_fields=True)
    except ParseError:
        logger.warning("the job's description of a simulation is unreadable, it is ignored")
        return None
    return SimulationContext(dispatch, job_ctx) if dispatch.simulation_run_id else None
