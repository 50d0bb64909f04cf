"""Consumers and keys over the management API, on both edges: what operators and callers can do, and what is refused."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.harness.gateway_process import Answer
from tests.harness.system import System, chat_body, eventually

CONSUMERS = "/gateway/consumers"
_numbers = itertools.count(1)


def fresh(gateway: System, prefix: str = "consumer") -> str:
    """A name, and an id, that no other test has."""
    return f"{prefix}-{gateway.edge}-{next(_numbers)}"


def created(gateway: System, **fields: Any) -> dict[str, Any]:
    answer = gateway.manage("POST", CONSUMERS, {"name": fresh(gateway), **fields})
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json()
    return made


def path_of(consumer: dict[str, Any]) -> str:
    return f"{CONSUMERS}/{consumer['id']}"


def calls(gateway: System, key: str, model: str = "gpt-4o") -> Answer:
    return gateway.post("/v1/chat/completions", chat_body(model), key=key)


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.error()["param"]


def test_a_consumer_is_created_read_changed_and_deleted(gateway: System) -> None:
    made = gateway.manage("POST", CONSUMERS, {"name": fresh(gateway), "models": ["gpt-4o"]})
    assert made.status == 201
    one, key = made.headers["location"], made.json()["key"]
    shown = gateway.get(one)
    assert shown.json() == {name: value for name, value in made.json().items() if name != "key"}
    assert shown.headers["etag"] == made.headers["etag"]
    assert calls(gateway, key).status == 200
    assert calls(gateway, key, "o4-mini").status == 403
    changed = gateway.manage("PATCH", one, {"models": None, "limits": {"tokens_per_minute": 5}})
    assert (changed.json()["models"], changed.json()["limits"]) == (None, {"tokens_per_minute": 5})
    assert changed.headers["etag"] != made.headers["etag"]
    assert gateway.get(one).headers["etag"] == changed.headers["etag"]
    assert gateway.get(one).json() == changed.json()
    assert gateway.manage("DELETE", one).status == 204
    assert gateway.get(one).status == gateway.manage("DELETE", one).status == 404
    usage = {line["key"]: line for line in gateway.get("/gateway/usage").json()["lines"]}
    assert usage[made.json()["id"]]["name"] == made.json()["name"]  # the usage of a deleted consumer keeps its name


def test_every_field_is_written_and_read_back(gateway: System) -> None:
    fields = {
        "models": ["gpt-4o", "o4-mini"],
        "limits": {"tokens_per_minute": 5, "budget_usd": 1.5, "budget_period": "week", "soft": True},
        "model_limits": {"gpt-4o": {"max_concurrent": 2}},
        "addresses": ["10.0.0.0/8", "2001:db8::/32"],
        "regions": ["swedencentral"],
        "pin": True,
        "explain": True,
        "whole_account": True,
        "expires": "2099-03-31T00:00:00Z",
    }
    made = created(gateway, **fields)
    assert fields.items() <= gateway.get(path_of(made)).json().items()
    again = gateway.manage("PUT", path_of(made), gateway.get(path_of(made)).json())  # as it was read
    assert again.json() == gateway.get(path_of(made)).json()
    plain = gateway.manage("PUT", path_of(made), {"name": made["name"]}).json()
    assert gateway.get(path_of(made)).json() == plain
    assert (plain["models"], plain["limits"], plain["addresses"], plain["expires"]) == (None, {}, [], None)
    assert [key["id"] for key in plain["keys"]] == [key["id"] for key in made["keys"]]


def test_a_put_with_an_id_of_the_clients_choice_creates_once_and_its_keys_open_the_gateway(gateway: System) -> None:
    chosen = fresh(gateway, "research-chat")
    body = {"name": chosen, "team": ""}
    first = gateway.manage("PUT", f"{CONSUMERS}/{chosen}", body)
    assert (first.status, first.json()["keys"]) == (201, [])
    second = gateway.manage("PUT", f"{CONSUMERS}/{chosen}", body)
    assert (second.status, second.json(), second.headers["etag"]) == (200, first.json(), first.headers["etag"])
    assert gateway.manage("PUT", f"{CONSUMERS}/{chosen}", body, {"if-none-match": "*"}).status == 412
    key = gateway.manage("POST", f"{CONSUMERS}/{chosen}/keys", {}).json()["key"]
    assert key.startswith(f"tg_{chosen}_")
    assert calls(gateway, key).status == 200
    assert gateway.get("/gateway/usage/me?by=key", key).json()["lines"][0]["key"] == chosen
    assert gateway.get(f"/gateway/limits/{chosen}").status == 200
    taken = gateway.manage("POST", CONSUMERS, {"id": chosen, "name": fresh(gateway)})
    assert (taken.status, taken.error()["code"]) == (409, "id_taken")
    for wrong in ("Upper", "-x", "a" * 81, "a_b"):
        assert refusal(gateway.manage("PUT", f"{CONSUMERS}/{wrong}", {"name": fresh(gateway)})) == (400, "id")


def test_a_change_of_what_somebody_else_has_changed_is_refused_with_the_newest_etag(gateway: System) -> None:
    made = created(gateway)
    etag = gateway.get(path_of(made)).headers["etag"]
    newest = gateway.manage("PATCH", path_of(made), {"explain": True}, {"if-match": etag}).headers["etag"]
    for method, body in (("PATCH", {"pin": True}), ("PUT", {"name": made["name"]}), ("DELETE", None)):
        refused = gateway.manage(method, path_of(made), body, {"if-match": etag})
        assert (refused.status, refused.headers["etag"]) == (412, newest)
    assert gateway.manage("PATCH", path_of(made), {"pin": True}, {"if-match": f'"x", {newest}'}).status == 200
    absent = gateway.manage("PUT", f"{CONSUMERS}/{fresh(gateway)}", {"name": fresh(gateway)}, {"if-match": "*"})
    assert absent.status == 412


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"colour": "red"}, "colour"),
        ({"name": "  "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"name": 5}, "name"),
        ({"models": ["gpt-9"]}, "models"),
        ({"models": []}, "models"),
        ({"models": "gpt-4o"}, "models"),
        ({"team": "nobody's"}, "team"),
        ({"regions": ["atlantis"]}, "regions"),
        ({"data_zones": ["eu"]}, "data_zones"),
        ({"addresses": ["10.0.0.1/8"]}, "addresses"),
        ({"limits": {"tokens_per_minute": "5"}}, "limits.tokens_per_minute"),
        ({"limits": {"tokens_per_minute": -1}}, "limits.tokens_per_minute"),
        ({"limits": {"tokens": 1}}, "limits.tokens"),
        ({"limits": {"time_zone": "Mars"}}, "limits.time_zone"),
        ({"model_limits": {"gpt-9": {}}}, "model_limits"),
        ({"model_limits": {"gpt-4o": {"soft": 1}}}, "model_limits[...].soft"),
        ({"expires": "tomorrow"}, "expires"),
        ({"expires": "2020-01-01"}, "expires"),
        ({"expires": "9999-12-31T23:59:59-14:00"}, "expires"),
        ({"expires": "9999-12-31T23:59:59.999999Z"}, "expires"),
        ({"state": "paused"}, "state"),
    ],
)
def test_a_mistake_is_a_400_that_names_the_field_and_changes_nothing(
    gateway: System, fields: dict[str, Any], param: str
) -> None:
    made = created(gateway)
    before = gateway.get(path_of(made)).json()
    for method, path, body in (
        ("POST", CONSUMERS, {"name": fresh(gateway), **fields}),
        ("PUT", path_of(made), {"name": made["name"], **fields}),
        ("PATCH", path_of(made), fields),
    ):
        answer = gateway.manage(method, path, body)
        assert refusal(answer) == (400, param), answer.body
    assert gateway.get(path_of(made)).json() == before


def test_an_unknown_field_is_refused_with_the_names_of_the_known_ones(gateway: System) -> None:
    top = gateway.manage("POST", CONSUMERS, {"name": "x", "colour": "red"}).error()["message"]
    assert "expected: name, team, products, models" in top
    inner = gateway.manage("POST", CONSUMERS, {"name": "x", "limits": {"tokens": 1}}).error()["message"]
    assert "tokens_per_minute" in inner
    for body in (b"", b"[]", b"{", b"null", b'{"name": "\xff"}'):
        assert gateway.manage("POST", CONSUMERS, body).status == 400
    deep = b'{"limits": ' + b'{"a": ' * 5000 + b"1" + b"}" * 5001
    assert gateway.manage("PATCH", path_of(created(gateway)), deep).status == 400


def test_a_name_is_given_once_whatever_its_case_and_is_free_again_afterwards(gateway: System) -> None:
    made = created(gateway)
    for name in (made["name"], made["name"].upper(), f"  {made['name']} "):
        taken = gateway.manage("POST", CONSUMERS, {"name": name})
        assert (taken.status, taken.error()["code"], taken.error()["param"]) == (409, "name_taken", "name")
        assert made["id"] in taken.error()["message"]
    other = created(gateway)
    assert gateway.manage("PATCH", path_of(other), {"name": made["name"]}).status == 409
    assert gateway.manage("PATCH", path_of(made), {"name": made["name"].upper()}).status == 200  # its own
    assert gateway.manage("PATCH", path_of(made), {"name": fresh(gateway)}).status == 200
    assert gateway.manage("PATCH", path_of(other), {"name": made["name"]}).status == 200
    assert gateway.manage("DELETE", path_of(other)).status == 204
    assert gateway.manage("POST", CONSUMERS, {"name": made["name"]}).status == 201


def test_of_many_operators_who_want_a_name_at_once_one_gets_it(gateway: System) -> None:
    name = fresh(gateway, "wanted")
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: gateway.manage("POST", CONSUMERS, {"name": name}), range(10)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 9
    consumers = gateway.get(f"{CONSUMERS}?name={name}").json()["data"]
    assert refusal(gateway.get(f"{CONSUMERS}?name={'x' * 129}")) == (400, "name")
    assert [one["name"] for one in consumers] == [name]


def test_lists_are_filtered_and_come_in_pages(gateway: System) -> None:
    mark = fresh(gateway, "paged")
    made = [created(gateway, name=f"{mark} {number}", models=[model]) for number, model in enumerate(_MODELS)]
    gateway.manage("PATCH", path_of(made[0]), {"state": "revoked"})
    consumers, after = [], ""
    while True:
        page = gateway.get(f"{CONSUMERS}?name={mark}&limit=2{after}").json()
        assert len(page["data"]) <= 2
        consumers += page["data"]
        if page["after"] is None:
            break
        after = f"&after={page['after']}"
    assert [one["id"] for one in consumers] == sorted(one["id"] for one in made)

    def ids(query: str) -> set[str]:
        return {one["id"] for one in gateway.get(f"{CONSUMERS}?name={mark}&{query}").json()["data"]}

    assert ids("state=revoked") == {made[0]["id"]}
    assert ids("state=active") == {one["id"] for one in made[1:]}
    assert ids("model=o4-mini") == {one["id"] for one in made if one["models"] == ["o4-mini"]}
    assert ids("team=nobody") == set()
    for query, param in (("limit=0", "limit"), ("state=odd", "state"), ("colour=red", "colour")):
        assert refusal(gateway.get(f"{CONSUMERS}?{query}")) == (400, param)


_MODELS = ("gpt-4o", "o4-mini", "gpt-4o", "o4-mini", "gpt-4o")


def test_a_revoked_consumer_opens_nothing_until_it_is_restored(gateway: System) -> None:
    made = created(gateway)
    spare = gateway.manage("POST", f"{path_of(made)}/keys").json()
    gone = gateway.manage("POST", f"{path_of(made)}/keys").json()
    assert gateway.manage("DELETE", f"{path_of(made)}/keys/{gone['id']}").status == 204
    revoked = gateway.manage("PATCH", path_of(made), {"state": "revoked"}).json()
    assert revoked["state"] == "revoked"
    assert {key["state"] for key in revoked["keys"]} == {"revoked"}
    assert calls(gateway, made["key"]).status == 401
    restored = gateway.manage("PATCH", path_of(made), {"state": "active"}).json()
    assert restored["state"] == "active"
    assert {key["id"]: key["state"] for key in restored["keys"]} == {
        made["keys"][0]["id"]: "active",
        spare["id"]: "active",
        gone["id"]: "revoked",  # one by one, for good
    }
    assert gateway.get(path_of(made)).json() == restored
    assert calls(gateway, made["key"]).status == 200  # the instance that took the change knows it


def test_keys_are_made_listed_and_rotated_with_overlap(gateway: System) -> None:
    made = created(gateway, expires="2099-01-01")
    keys, first = f"{path_of(made)}/keys", made["keys"][0]["id"]
    rotated = gateway.manage("POST", f"{keys}/{first}/rotate", {"overlap_hours": 2})
    assert (rotated.status, rotated.json()["expires"]) == (201, "2099-01-01T00:00:00Z")  # as the old one had
    assert calls(gateway, made["key"]).status == calls(gateway, rotated.json()["key"]).status == 200
    listed = {key["id"]: key for key in gateway.get(keys).json()["data"]}
    assert listed[first]["successor"] == rotated.json()["id"]
    ends = time.mktime(time.strptime(listed[first]["expires"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
    assert 7000 < ends - time.time() < 7300
    assert gateway.get(f"{keys}/{first}").json() == listed[first]
    assert gateway.get(f"{keys}/none").status == 404
    assert "digest" not in gateway.get(keys).body.decode()
    # without an overlap the old key ends at once, and those that were being replaced with it
    last = gateway.manage("POST", f"{keys}/{rotated.json()['id']}/rotate", {"overlap_hours": 0}).json()
    assert {key["id"] for key in gateway.get(keys).json()["data"] if key["state"] == "active"} == {last["id"]}
    refused = gateway.manage("POST", f"{keys}/{first}/rotate")
    assert (refused.status, refused.error()["code"]) == (400, "key_not_valid")
    assert gateway.manage("POST", f"{keys}/none/rotate").status == 404
    assert refusal(gateway.manage("POST", f"{keys}/{last['id']}/rotate", {"overlap_hours": -1})) == (
        400,
        "overlap_hours",
    )


def test_keys_end_with_their_consumer_and_last_as_long_when_that_is_extended(gateway: System) -> None:
    made = created(gateway, expires="2099-01-01")
    for expires in ("2098-01-01T00:00:00Z", "2100-01-01T00:00:00Z", None):
        changed = gateway.manage("PATCH", path_of(made), {"expires": expires})
        assert changed.json()["keys"][0]["expires"] == expires
        assert gateway.get(path_of(made)).json() == changed.json()
        assert gateway.get(path_of(made)).headers["etag"] == changed.headers["etag"]


def test_callers_read_about_their_own_key_and_rotate_it(gateway: System) -> None:
    made = created(gateway)
    own = gateway.get("/gateway/keys/me", made["key"])
    assert own.status == 200
    assert (own.json()["id"], own.json()["consumer"]) == (made["keys"][0]["id"], made["id"])
    rotated = gateway.manage("POST", "/gateway/keys/me/rotate", {"overlap_hours": 1}, key=made["key"])
    assert rotated.status == 201
    assert calls(gateway, made["key"]).status == 200
    eventually(lambda: calls(gateway, rotated.json()["key"]).status == 200)  # it may have been read just now
    assert gateway.get("/gateway/keys/me", rotated.json()["key"]).json()["id"] == rotated.json()["id"]
    loop = gateway.manage("POST", "/gateway/keys/me/rotate", {}, key=made["key"])
    assert loop.status == 429
    assert 0 < float(loop.headers["retry-after"]) <= 10
    (entry,) = gateway.get(f"/gateway/audit?object={made['id']}/{made['keys'][0]['id']}").json()["data"]
    assert (entry["actor"], entry["action"]) == (f"consumer:{made['id']}", "key.rotate")
    assert (entry["before"]["id"], entry["after"]["id"]) == (made["keys"][0]["id"], rotated.json()["id"])
    assert gateway.get("/gateway/keys/me").status == 401  # the operator has none


def test_every_change_is_on_record_without_a_secret(gateway: System) -> None:
    made = created(gateway)
    key = made["keys"][0]["id"]
    gateway.manage("PATCH", path_of(made), {"explain": True})
    gateway.manage("PATCH", path_of(made), {"explain": True})  # no change, no record
    rotated = gateway.manage("POST", f"{path_of(made)}/keys/{key}/rotate").json()
    gateway.manage("DELETE", path_of(made))
    trail = gateway.get(f"/gateway/audit?object={made['id']}").json()["data"]
    actions = ["consumer.delete", "key.rotate", "consumer.update", "consumer.create"]
    assert [entry["action"] for entry in trail] == actions
    assert (trail[2]["before"]["explain"], trail[2]["after"]["explain"]) == (False, True)
    assert {entry["state"] for entry in trail} == {"done"}
    whole = gateway.get("/gateway/audit?limit=1000").body.decode()
    for secret in (made["key"], rotated["key"]):
        assert secret not in whole
        assert secret.rpartition("_")[2] not in whole + gateway.gateway.logs()


def test_callers_cannot_manage_and_the_paths_are_closed_without_a_key(gateway: System) -> None:
    made = created(gateway)
    for method, path in (
        ("GET", CONSUMERS),
        ("POST", CONSUMERS),
        ("GET", path_of(made)),
        ("PATCH", path_of(made)),
        ("POST", f"{path_of(made)}/keys"),
    ):
        assert gateway.manage(method, path, {}, key=made["key"]).status == 401
    assert gateway.get(path_of(made)).status == 200
