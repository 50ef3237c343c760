"""A session seen and steered from elsewhere. Public names: `livekit.agents.voice.remote_session`."""
