"""Both edges with short periods: `uvicorn tests.harness.hurried:app`, and a worker for the emulated Functions host.

Not to be imported by tests, whose own process keeps the periods of the product.
"""

import sys

from shared import asgi
from shared.edges import functions_pairing
from shared.versions import live
from tests.harness import functions_host_worker
from tests.harness.gateway_process import HURRIED_PAIRING

live.EVERY = 1.0
functions_pairing.Pairing.__init__.__defaults__ = (HURRIED_PAIRING,)
app = asgi.app

if __name__ == "__main__":
    functions_host_worker.main(sys.argv[1:])
