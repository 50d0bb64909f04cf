"""The gateway's metrics: names, units, dimensions and buckets, by OpenTelemetry's GenAI conventions.

Names are literal because the package that defines them marks them as moved. Consumers are not a dimension: there may be
thousands, times models and backends, and every instance sends every series every minute. Usage by consumer is in the
ledger, and in the spans of kept calls.
"""

from shared.telemetry.metrics import Instrument

MODEL, BACKEND, REGION = "gen_ai.request.model", "tollgate.backend", "tollgate.region"

# The conventions' own buckets.
_SECONDS = tuple(0.01 * 2**n for n in range(14))
_SECONDS_TO_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_SECONDS_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(float(4**n) for n in range(14))
_BRIEF = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

_OF_A_CALL = ("gen_ai.operation.name", MODEL, BACKEND)
DURATION = Instrument(
    "histogram", "gen_ai.client.operation.duration", "s", "A call, from its arrival to its last byte.",
    (*_OF_A_CALL, "error.type"), _SECONDS,
)  # fmt: skip
FIRST_TOKEN = Instrument(
    "histogram", "gen_ai.server.time_to_first_token", "s", "From a call's arrival to its stream's first content.",
    _OF_A_CALL, _SECONDS_TO_FIRST,
)  # fmt: skip
PER_TOKEN = Instrument(
    "histogram", "gen_ai.server.time_per_output_token", "s", "Between the tokens of a stream, after the first.",
    _OF_A_CALL, _SECONDS_PER_TOKEN,
)  # fmt: skip
TOKENS = Instrument(
    "histogram", "gen_ai.client.token.usage", "{token}",
    "Tokens of a call by class. The classes below input and output are parts of these: never add them.",
    (*_OF_A_CALL, "gen_ai.token.type"), _TOKENS,
)  # fmt: skip
UNITS = Instrument(
    "counter", "tollgate.usage.units", "{unit}",
    "Units charged by the piece, by the name of their price: images, seconds of sound, calls of the backends' tools.",
    (*_OF_A_CALL, "tollgate.unit"),
)  # fmt: skip
ATTEMPTS = Instrument(
    "counter", "tollgate.attempts", "{try}", "Attempts of calls on backends.", (BACKEND, REGION, "tollgate.result")
)
REFUSALS = Instrument(
    "counter", "tollgate.refusals", "{call}", "Calls that the gateway refused before they reached a backend.",
    ("error.type",),
)  # fmt: skip
TRIPS = Instrument("counter", "tollgate.backend.trips", "{trip}", "Times a deployment was ejected.", (BACKEND,))
LIMIT_HITS = Instrument(
    "counter", "tollgate.limit.hits", "{call}", "Calls refused by a limit.", ("tollgate.scope", "tollgate.limit")
)
LIMIT_ALERTS = Instrument(
    "counter", "tollgate.limit.alerts", "{alert}", "Times a quota or a budget reached a percentage.",
    ("tollgate.limit", "tollgate.percentage"),
)  # fmt: skip
ALERTS = Instrument("counter", "tollgate.alerts", "{alert}", "Alerts raised, by event.", ("tollgate.event",))
LEDGER_LOST = Instrument("counter", "tollgate.ledger.lost", "{row}", "Usage rows lost.")
TELEMETRY_LOST = Instrument("counter", "tollgate.telemetry.lost", "{item}", "Spans and log lines lost.")
STORE = Instrument(
    "histogram", "tollgate.store.duration", "s", "An operation of the tables.",
    ("tollgate.store.operation", "error.type"), _BRIEF,
)  # fmt: skip
LAG = Instrument("histogram", "tollgate.event_loop.lag", "s", "Delay of the event loop's timers.", (), _BRIEF)
BACKLOG = Instrument("gauge", "tollgate.ledger.backlog", "{row}", "Usage rows not in the table yet.")
SAFE_MODE = Instrument("gauge", "tollgate.safe_mode", "1", "1: limits are applied without the table.")
