"""End-to-end tests need a LiveKit server: `make e2e` provides one. Without it none is collected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

if "LIVEKIT_SERVER" in os.environ:
    from e2e.harness import leaks
    from e2e.harness.network import Network, refusal, remove_stale_cables
    from e2e.harness.server import LiveKitServer
    from e2e.harness.speech import Speech

    @pytest.fixture(scope="session", autouse=True)
    def nothing_left_behind() -> Iterator[None]:
        """Fail the run if a process, a socket or a network of it is left at its end."""
        leaks.mark_this_run()
        remove_stale_cables()
        yield
        leaks.expect_nothing()

    @pytest.fixture(scope="session")
    def server(
        tmp_path_factory: pytest.TempPathFactory, nothing_left_behind: None
    ) -> Iterator[LiveKitServer]:
        """A LiveKit server on this machine, for the whole run, with nobody in it at the end."""
        with LiveKitServer(
            Path(os.environ["LIVEKIT_SERVER"]), tmp_path_factory.mktemp("livekit-server")
        ) as running:
            yield running
            leaks.expect_empty_rooms(running)

    @pytest.fixture(scope="session")
    def network(nothing_left_behind: None) -> Iterator[Network]:
        """Machines of their own, where that is permitted."""
        if why := refusal():
            pytest.skip(why)
        with Network() as network:
            yield network

    @pytest.fixture(scope="session")
    def far_server(
        tmp_path_factory: pytest.TempPathFactory, network: Network
    ) -> Iterator[LiveKitServer]:
        """The same server on a machine of its own, for callers on machines of their own."""
        folder = tmp_path_factory.mktemp("far-livekit-server")
        with LiveKitServer(Path(os.environ["LIVEKIT_SERVER"]), folder, network=network) as running:
            yield running
            leaks.expect_empty_rooms(running)

    @pytest.fixture(scope="session")
    def speech(tmp_path_factory: pytest.TempPathFactory) -> Speech:
        """Speaks texts into WAV files, and hears what WAV files say."""
        return Speech(tmp_path_factory.mktemp("speech"))

else:
    collect_ignore_glob = ["*"]
