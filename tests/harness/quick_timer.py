"""The container edge with a timer that need not be waited for: `uvicorn tests.harness.quick_timer:app`."""

from shared import asgi

asgi._ROLL_UP_EVERY = 0.5  # seconds
app = asgi.app
