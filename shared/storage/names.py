"""Names of the tables."""

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
