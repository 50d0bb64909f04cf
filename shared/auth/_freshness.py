"""The ages, in seconds, up to which cached rows of consumers and keys are used, and the wait for newer ones."""

REFRESH_AFTER = 30.0  # read again in the background
STALE_AFTER = 50.0  # read again before use
RECHECK_AFTER = 2.0  # what is not cached may be new; also the pause after a failure
WAIT_WITH_FALLBACK = 0.3  # for the table, if a cached row can serve instead
WAIT_WITHOUT = 2.5  # for the table otherwise: more than the store's own time budget
