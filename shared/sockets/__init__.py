"""WebSockets at the ASGI edge: a caller's connection, pinned to one backend, whose responses are calls of their own."""
