"""The suspicion that a deployment hangs, and its test by one call. Pure.

One slow call says nothing. A deployment is suspect when no byte has come on any of its calls for much longer than calls
of that size take. One of its calls then goes to another deployment as well. If that is answered while the suspect is
still silent, it hangs.
"""

from typing import Literal, NamedTuple

SHORTEST = 3.0  # seconds of silence below which no deployment is suspect
_TIMES = 3.0  # the usual time of calls of that size
_UNKNOWN = 20.0  # seconds, while no answer is known
_BETWEEN_TESTS = 30.0  # seconds: each test doubles a call, and callers pay for it
_AGAIN = 1.0  # seconds until a suspect is looked at again that was tested not long ago


class Look(NamedTuple):
    """The result of a look at a waiting call. `hangs`: a deployment that was being tried again has not recovered."""

    verdict: Literal["wait", "test", "hangs"]
    seconds: float = 0.0


def patience(usual: float | None) -> float:
    """The seconds of silence after which a deployment is suspect. `usual`: milliseconds that such calls take."""
    return _UNKNOWN if usual is None else max(SHORTEST, _TIMES * usual / 1000)


def look(silent: float, patience: float, since_test: float, *, probing: bool) -> Look:
    """Judge a deployment that has been silent for so many seconds. `since_test`: seconds since it was tested last;
    `probing`: the waiting call tries it again after an ejection, so that nothing more is needed to eject it."""
    if silent < patience:
        return Look("wait", patience - silent)
    if probing:
        return Look("hangs")
    return Look("wait", _AGAIN) if since_test < _BETWEEN_TESTS else Look("test")
