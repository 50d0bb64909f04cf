"""Names of the tables, and of rows whose newest stands first."""

_LAST = 10**13  # milliseconds: such rows are sorted by what is left until then

CONSUMERS = "consumers"
CONSUMER_NAMES = "consumernames"
FOREIGN_KEYS = "foreignkeys"
LIMITS = "limits"
ROTATION = "rotation"
HEALTH = "health"
AFFINITY = "affinity"  # also the beginning of the monthly tables' names
PENDING = "pending"  # work that goes on after its call
USAGE = "usage"  # the beginning of the monthly tables' names
USAGE_AGGREGATES = "usageagg"
CONTROL = "control"  # when the timer's jobs last ran; a partition per job
AUDIT = "audit"  # the beginning of the monthly tables' names
ACCESS_REQUESTS = "accessrequests"


def newest_first(at: float) -> str:
    """The beginning of a row's key, by a time in seconds since 1970."""
    return f"{_LAST - round(at * 1000):013d}"
