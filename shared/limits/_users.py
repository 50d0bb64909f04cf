"""A bound on the users behind a key that have limits of their own: their names come from callers."""

from shared.usage.folds import MOST_USERS, OTHERS

_DAY = 86_400
_MOST = 50_000  # of all keys


class UsersOfKeys:
    """The users that this process has seen today, at most `MOST_USERS` per key."""

    def __init__(self) -> None:
        self._day = 0
        self._known: dict[str, set[str]] = {}
        self._size = 0

    def limited(self, consumer_id: str, user: str, now: float) -> str:
        """The name under which a user is limited: beyond the bound, all others of a key share one."""
        if (day := int(now // _DAY)) != self._day:
            self._day, self._size = day, 0
            self._known.clear()
        users = (
            self._known.setdefault(consumer_id, set()) if self._size < _MOST else self._known.get(consumer_id, set())
        )
        if user in users:
            return user
        if len(users) >= MOST_USERS or self._size >= _MOST:
            return OTHERS
        users.add(user)
        self._size += 1
        return user
