"""Real coding agents, run headless against a gateway (`make test-agents`)."""
