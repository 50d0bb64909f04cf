"""Warnings of what a document leaves open, or says in two ways, about the places where calls are processed. It is
served all the same: keys limited to regions and data zones reach less then, or more, than the operator may think.
Pure."""

from collections.abc import Iterator

from shared.config.callers import Bounds, CallerRule
from shared.config.document import Backend, Configuration


def warnings(configuration: Configuration) -> Iterator[str]:
    """A sentence for each backend with a data zone and global deployments, and for each whose deployments have no type
    although some calls are limited to places."""
    limits = _limits_places(configuration)
    for backend in configuration.backends:
        if backend.api != "azure":
            continue
        if backend.data_zone and (models := _of_type(backend, "global")):
            yield (
                f"backend {backend.name}: it has the data_zone {backend.data_zone}, but its deployments of {models} "
                "are global: Azure processes their calls anywhere, so keys limited to data zones or regions never "
                "reach them. Deploy them as data_zone or regional, or put them in a backend without data_zone."
            )
        if (limits or backend.data_zone) and (models := _of_type(backend, None)):
            yield (
                f"backend {backend.name}: its deployments of {models} have no type, so keys limited to regions or data "
                "zones reach them by the backend's region and data_zone alone, wherever Azure processes their calls. "
                "Set `deployment`, or `type` in `models`."
            )


def _of_type(backend: Backend, kind: str | None) -> str:
    return ", ".join(model for model in backend.models if backend.type_of(model) == kind)


def _limits_places(configuration: Configuration) -> bool:
    """True if the document itself limits some calls to places; the keys in the table may, too."""
    limited: list[Bounds | CallerRule] = [*configuration.products.values(), *configuration.teams.values()]
    limited += configuration.entra.callers if configuration.entra is not None else []
    return any(one.regions is not None or one.data_zones is not None for one in limited)
