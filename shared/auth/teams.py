"""The owners of teams."""

from collections.abc import Iterable

from shared.config.document import Configuration


def teams_owned(configuration: Configuration, object_id: str, groups: Iterable[str] = ()) -> frozenset[str]:
    """The teams that a person owns, by its object id in Entra ID or one of its groups'."""
    ids = {object_id, *groups}
    return frozenset(name for name, team in configuration.teams.items() if not ids.isdisjoint(team.owners))
