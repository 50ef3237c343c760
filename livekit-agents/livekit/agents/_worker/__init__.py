"""What an `AgentServer` is made of."""
