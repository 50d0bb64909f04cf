"""The models, as each consumer may use them: by name, by region, and on the backends that a call may go to."""

from collections.abc import Callable, Iterable

from shared.azure_openai import residency
from shared.azure_openai.apis import IMAGE_DEPLOYMENT
from shared.config.document import Backend, Configuration, Format, Model
from shared.errors import (
    InvalidRequest,
    ModelNotAllowed,
    ModelNotFound,
    PinNotAllowed,
    RegionNotAllowed,
    StateConflict,
)
from shared.routing import preferences
from shared.routing._groups import Group
from shared.routing.preferences import RoutingPreferences
from shared.types import Access, Binding, Call, Consumer, Target

_PLAIN = Model()
_OF_MESSAGES = "POST /v1/messages, Anthropic's API"
_PATHS = {"anthropic": "POST /v1/chat/completions or /v1/responses, OpenAI's API"}

Allowed = Callable[[Target], bool]


class Models:
    """The models of a configuration. `groups_of`: returns the targets of a model; `now`: seconds since 1970."""

    def __init__(
        self, configuration: Configuration, groups_of: Callable[[str], tuple[Group, ...]], now: Callable[[], float]
    ) -> None:
        self._configuration = configuration
        self._groups_of = groups_of
        self._now = now
        self._served = dict.fromkeys(configuration.model_names())

    def usable_by(self, consumer: Consumer, form: Format | None = None) -> list[str]:
        """The models that a consumer may use, in the order of the configuration. `form`: by this API; None: by any."""
        now, served, anthropic = self._now(), self._configuration.served, self._configuration.anthropic
        names = dict.fromkeys([*self._served, *self._configuration.switches])
        return [
            name
            for name in names
            if self._allowed(consumer, name)
            and (model := served(name, now)) in self._served
            and self._within_reach(consumer, model)
            and (form is None or (model in anthropic) == (form == "anthropic"))
        ]

    def visible_model(self, consumer: Consumer, call: Call) -> str:
        """The configured model that a call names, if the consumer may use it and its regions. Raises as `model` and
        `check_api`, and `RegionNotAllowed`."""
        model = self.model(consumer, call.model)
        self.check_api(model, call)
        if not self._within_reach(consumer, model):
            backends = [target.backend for group in self._groups_of(model) for target in group.targets]
            raise _region_not_allowed(consumer.access, backends, model)
        return self._configuration.canonical(call.model)

    def model(self, consumer: Consumer, name: str) -> str:
        """The configured model that serves a caller's name of it: its successor, from the day of a switch on. The
        consumer must be allowed to use the one that it names. Raises `ModelNotFound` and `ModelNotAllowed`."""
        named = self._configuration.canonical(name)
        model = self._configuration.served(named, self._now())
        if model not in self._served:
            usable = ", ".join(self.usable_by(consumer)) or "none"
            raise ModelNotFound(
                f"The model {name[:128]!r} does not exist here. This key may use: {usable}.", param="model"
            )
        if not self._allowed(consumer, named):
            allowed = ", ".join(self.usable_by(consumer)) or "none"
            raise ModelNotAllowed(f"This key may not use the model {name!r}. It may use: {allowed}.", param="model")
        return model

    def check_api(self, model: str, call: Call) -> None:
        """Raise `ModelNotFound` for a model that is not called by the API of this call."""
        if (model in self._configuration.anthropic) != (call.surface == "anthropic"):
            paths = _PATHS.get(call.surface, _OF_MESSAGES)
            raise ModelNotFound(f"The model {model!r} does not exist on this path: use {paths}.", param="model")

    def about(self, model: str) -> Model:
        return self._configuration.models.get(model, _PLAIN)

    def fallbacks(self, consumer: Consumer, model: str, preferred: RoutingPreferences) -> list[str]:
        """The models to fall back on. Those that a caller names must exist, and it must be allowed to use them."""
        if preferred.fallbacks is not None:
            named = dict.fromkeys(self.model(consumer, name) for name in preferred.fallbacks)
            for name in named:
                if not self._configuration.alike(name, model):
                    raise InvalidRequest(f"The model {name!r} cannot take calls of {model!r}: it has a different API.")
            return [name for name in named if name != model]
        return [name for name in self.about(model).fallbacks if self._allowed(consumer, name)]

    def restriction(
        self, consumer: Consumer, call: Call, model: str, preferred: RoutingPreferences, binding: Binding
    ) -> Allowed | None:
        """The targets that a call may go to; None: all. Raises `RegionNotAllowed`, `PinNotAllowed`, `StateConflict` if
        the backends that it is bound to do not serve the model, and `InvalidRequest` if the chosen backend does not."""
        access, pin, only = consumer.access, preferred.backend, binding.only
        if not access.is_limited and not pin and only is None:
            return None
        stays = self._residency(access, call)
        if pin and not access.pin:
            raise PinNotAllowed(f"This key may not choose a backend: leave out the header {preferences.BACKEND}.")
        left = [target.backend for group in self._groups_of(model) for target in group.targets]
        if not (left := [backend for backend in left if only is None or backend.name in only]):
            raise StateConflict(f"{binding.reason} That backend does not serve the model of this call.", param="model")
        if not (left := [backend for backend in left if pin in ("", backend.name)]):
            raise InvalidRequest(
                f"{preferences.BACKEND}: no backend that may serve this call has the name {pin[:64]!r}.",
                param=preferences.BACKEND,
            )
        if not any(stays(backend, model) for backend in left):
            raise _region_not_allowed(access, left, model)
        return lambda target: (
            (only is None or target.backend.name in only)
            and pin in ("", target.backend.name)
            and stays(target.backend, target.model)
        )

    def with_images(self, consumer: Consumer, call: Call, allowed: Allowed | None) -> Allowed | None:
        """The targets next to the model that the image tool of a call uses. Raises the errors of `model`."""
        if (name := call.headers.get(IMAGE_DEPLOYMENT)) is None:
            return allowed
        model = self.model(consumer, name)
        if model != name:
            raise InvalidRequest(
                f"{IMAGE_DEPLOYMENT}: expected the model's own name {model!r}.", param=IMAGE_DEPLOYMENT
            )
        access = consumer.access
        return lambda target: (
            model in target.backend.models
            and access.allows(target.backend, model)
            and (allowed is None or allowed(target))
        )

    def _allowed(self, consumer: Consumer, model: str) -> bool:
        """True if the consumer's policy allows the model, by its name or an alias."""
        models = consumer.models
        return models is None or model in models or not models.isdisjoint(self.about(model).aliases)

    def _residency(self, access: Access, call: Call) -> Callable[[Backend, str], bool]:
        """The backends, with a model, where a call stays in the consumer's places: with the other models that its body
        names, and the one that cannot be seen."""
        if not access.is_limited:
            return access.allows
        unseen = residency.is_unseen(call)
        others = [self._configuration.canonical(name) for name in call.other_models]

        def stays(backend: Backend, model: str) -> bool:
            known = all(access.allows(backend, other) for other in others if other in backend.models)
            hidden = unseen or any(other not in backend.models for other in others)
            return access.allows(backend, model) and known and (not hidden or access.allows_unseen(backend))

        return stays

    def _within_reach(self, consumer: Consumer, model: str) -> bool:
        """True if a model is in a region that the consumer may use."""
        access = consumer.access
        return not access.is_limited or any(
            access.allows(target.backend, model) for group in self._groups_of(model) for target in group.targets
        )


def _region_not_allowed(access: Access, backends: Iterable[Backend], model: str) -> RegionNotAllowed:
    """The error of a call that would leave. It names the types, which explain it where a region alone would not."""
    near = [backend for backend in backends if access.allows(backend, "")]
    if not near:
        return RegionNotAllowed("This model is not in a region that this key may use.", param="model")
    if not model:
        return RegionNotAllowed(
            "The gateway cannot see which deployment this call would use, so this key, limited to "
            f"{_places(access)}, may not make it.",
            param="model",
        )
    types = " and ".join(sorted({str(backend.type_of(model)) for backend in near}))
    return RegionNotAllowed(
        f"The deployments of {model!r} in this key's places have the type {types}, so Azure may process their calls "
        f"elsewhere, and this key, limited to {_places(access)}, may not use them.",
        param="model",
    )


def _places(access: Access) -> str:
    zones = "the data zone " + " or ".join(sorted(access.data_zones)) if access.data_zones is not None else ""
    regions = "the region " + " or ".join(sorted(access.regions)) if access.regions is not None else ""
    return " and ".join(filter(None, (regions, zones)))
