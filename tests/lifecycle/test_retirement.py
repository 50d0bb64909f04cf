"""The end of a model: whose word counts, which version is meant, and when people are told."""

import email.utils
import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest

from local import demo
from local.models import ALIASES, CURRENT
from shared.config import parsing
from shared.config.days import since_seconds
from shared.config.document import Backend, Configuration, Model, Successor
from shared.lifecycle import retirement
from shared.lifecycle.notices import Notices
from shared.lifecycle.retirement import TABLE, Retirement

DAY = 86_400.0
ROOT = Path(__file__).resolve().parents[2]


def configuration(**models: Any) -> Configuration:
    served = {name: "d" for name in models if name != "gone"} | {"next": "n"}
    backend = {"name": "b", "endpoint": "https://b.openai.azure.com", "region": "r", "models": served}
    return parsing.parse(json.dumps({"backends": [backend], "models": models}), "x")


def at(day: str, hour: float = 0) -> float:
    return since_seconds(day) + hour * 3600


def test_every_line_of_the_table_has_a_date_a_source_and_the_day_of_reading() -> None:
    groups = json.loads(TABLE.read_text())
    lines = [line for group in groups for line in group["models"]]
    assert len(lines) > 60
    for group in groups:
        assert group["source"]
        assert group["url"].startswith("https://")
        assert date.fromisoformat(group["read"]) <= date.today()
    for line in lines:
        assert line.keys() == {"model", "version", "retires", "replacement"}
        assert date(2025, 1, 1) < date.fromisoformat(line["retires"]) < date(2035, 1, 1)
    keys = [(line["model"], line["version"]) for line in lines]
    assert len(set(keys)) == len(keys)
    end = retirement.of("whisper")
    assert end is not None
    assert groups[0]["source"] in end.source
    assert end.read == groups[0]["read"]


OFFERED = (
    "README.md",
    "gateway.sample.yaml",
    "local/run.py",
    "infra/bicep/*.bicepparam",
    "deploy/**/*.yaml",
    "examples/*.*",
)


def test_no_example_and_no_default_names_a_model_that_ended_or_ends_soon() -> None:
    """On the day that the table was read, and the quarter after it."""
    read = max(since_seconds(group["read"]) for group in json.loads(TABLE.read_text()))
    names = {
        name
        for pattern in OFFERED
        for path in ROOT.glob(pattern)
        for name in re.findall(r"\b(?:gpt|o\d|text-embedding|tts|whisper|dall-e)-?[\w.-]*\w", path.read_text())
    } | {*CURRENT, demo.FAVOURITE}
    settings = {name: Model(aliases=[*ALIASES.get(name, ())]) for name in names}  # an alias may be of an older version
    ends = {name: end.retires for name in names if (end := retirement.of(name, settings[name])) is not None}
    assert len(ends) > 5
    assert {name: day for name, day in ends.items() if since_seconds(day) < read + 90 * DAY} == {}


@pytest.mark.parametrize(
    ("model", "settings", "answered", "version", "retires"),
    [
        ("gpt-4o", Model(), "", "", "2027-04-14"),
        ("gpt-4o", Model(aliases=["gpt-4o-2024-05-13"]), "", "2024-05-13", "2026-12-09"),
        ("gpt-4o-2024-05-13", Model(), "", "2024-05-13", "2026-12-09"),
        ("gpt-4o", Model(aliases=["gpt-4o-2024-05-13"]), "gpt-4o-2024-11-20", "2024-11-20", "2027-04-14"),
        ("our-chat", Model(aliases=["gpt-4o"]), "", "", "2027-04-14"),
        ("our-chat", Model(), "gpt-4o-2024-05-13", "2024-05-13", "2026-12-09"),
        ("our-embeddings", Model(), "text-embedding-3-small", "", "2028-02-09"),
        ("gpt-4o", Model(retires="2026-12-24"), "gpt-4o-2024-11-20", "", "2026-12-24"),
    ],
)
def test_the_operators_day_goes_before_the_answered_version_and_that_before_the_newest(
    model: str, settings: Model, answered: str, version: str, retires: str
) -> None:
    end = retirement.of(model, settings, answered)
    assert end is not None
    assert (end.version, end.retires) == (version, retires)


def test_a_model_without_a_known_end_has_none() -> None:
    assert retirement.of("our-chat") is None
    assert retirement.of("our-chat", answered="our-chat-2026-01-01") is None


def test_the_operators_successor_is_the_replacement() -> None:
    end = retirement.of("gpt-4o", Model(replaced_by=Successor("next", "2027-01-01")))
    assert end is not None
    assert (end.replacement, end.retires) == ("next", "2027-04-14")


@pytest.mark.parametrize(
    ("day", "notice"),
    [
        ("2026-09-02", None), ("2026-09-03", 90), ("2026-11-01", 90), ("2026-11-02", 30), ("2026-11-25", 7),
        ("2026-12-02", 7), ("2026-12-03", None),
    ],
)  # fmt: skip
def test_people_are_told_90_30_and_7_days_ahead(day: str, notice: int | None) -> None:
    assert Retirement("m", "2026-12-02").notice(at(day, 13)) == notice


def test_the_headers_are_those_of_the_rfcs() -> None:
    headers = Retirement("m", "2026-12-15").headers()
    assert headers == {"deprecation": f"@{at('2026-09-16'):.0f}", "sunset": "Tue, 15 Dec 2026 00:00:00 GMT"}
    parsed = email.utils.parsedate_to_datetime(headers["sunset"])
    assert parsed.timestamp() >= int(headers["deprecation"].removeprefix("@"))  # RFC 9745, section 4


def test_answers_announce_an_end_from_90_days_before_it_on_and_headers_are_made_once_a_day() -> None:
    now = at("2026-09-15", 23.9)
    notices = Notices(configuration(m={"retires": "2026-12-15"}), lambda: now)
    assert notices.headers("m") == {}
    now = at("2026-09-16")
    headers = notices.headers("m")
    assert headers.keys() == {"deprecation", "sunset"}
    now += 3600
    assert notices.headers("m") is headers
    assert notices.headers("other") == {}
    now = at("2027-01-15")
    assert notices.headers("m") == headers  # it may be served longer than planned


def test_the_log_warns_of_models_that_end_soon_unless_a_successor_serves_already() -> None:
    about = {"m": {"retires": "2026-12-15"}, "far": {"retires": "2028-01-01"}, "past": {"retires": "2026-11-01"}}
    switched = {"switched": {"retires": "2026-12-15", "replaced_by": {"model": "next", "from": "2026-11-29"}}}
    given = configuration(**about, **switched)
    lines = list(retirement.warnings(given, at("2026-11-29")))
    assert lines == [
        "the model m ends on 2026-12-15, in 16 days (configuration)",
        "the model past ended on 2026-11-01 (configuration)",
    ]
    assert len(list(retirement.warnings(given, at("2026-11-28")))) == 3


def test_a_switch_serves_from_the_beginning_of_its_day_in_utc_and_follows_the_next_one() -> None:
    given = configuration(
        a={"aliases": ["a-1"], "replaced_by": {"model": "b", "from": "2027-01-15"}},
        b={"replaced_by": {"model": "next", "from": "2027-02-01"}},
    )
    midnight = at("2027-01-15")
    assert [given.served(name, midnight - 1) for name in ("a", "a-1", "b")] == ["a", "a", "b"]
    assert [given.served(name, midnight) for name in ("a", "a-1", "b")] == ["b", "b", "b"]
    assert [given.served(name, at("2027-02-01")) for name in ("a", "a-1", "b", "x")] == ["next", "next", "next", "x"]


@pytest.mark.parametrize(
    ("models", "complaint"),
    [
        ({"a": {"retires": "soon"}}, "models.a.retires: expected a date as 2027-02-01, got 'soon'"),
        ({"a": {"replaced_by": {"model": "x", "from": "2027-01-15"}}}, "models.a.replaced_by.model: expected a model"),
        ({"a": {"replaced_by": {"model": "next", "from": ""}}}, "models.a.replaced_by.from: expected a date"),
        ({"a": {"replaced_by": {"model": "a", "from": "2027-01-15"}}}, "a -> a is a cycle"),
        (
            {
                "a": {"replaced_by": {"model": "b", "from": "2027-01-15"}},
                "b": {"replaced_by": {"model": "a", "from": "2027-01-16"}},
            },
            "models.a.replaced_by.model: a -> b -> a is a cycle",
        ),
    ],
)
def test_a_wrong_date_or_switch_is_refused(models: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Exception, match=complaint.replace(".", r"\.")):
        configuration(**models)


def test_a_model_that_no_backend_has_any_more_may_still_be_replaced() -> None:
    given = configuration(gone={"replaced_by": {"model": "next", "from": "2026-01-15"}})
    assert given.served("gone", at("2026-11-29")) == "next"
    assert msgspec.to_builtins(given.models["gone"])["replaced_by"] == {"model": "next", "from": "2026-01-15"}


def test_azures_schedule_says_nothing_of_a_model_that_only_openai_serves() -> None:
    openai = Backend(name="o", endpoint="https://api.openai.com", kind="openai", models={"gpt-4o": "gpt-4o"})
    azure = Backend(name="a", endpoint="https://a", region="r", models={"gpt-4o": "gpt-4o"})
    end = retirement.of("gpt-4o")
    assert end is not None
    assert retirement.of_configured(Configuration([openai]), "gpt-4o") is None
    assert retirement.of_configured(Configuration([openai, azure]), "gpt-4o") == end
    own = retirement.of_configured(Configuration([openai], {"gpt-4o": Model(retires="2030-01-01")}), "gpt-4o")
    assert own is not None
    assert own.retires == "2030-01-01"
