"""A backend that is drained while a call is under way gets none of its later tries, unless nothing else is left."""

import pytest

from tests.harness.scripted_backends import Exchange, chat, completion, forwarding


@pytest.mark.parametrize(("drained", "asked"), [((1,), [0, 2]), ((1, 2), [0, 1]), ((), [0, 1])])
async def test_a_try_goes_past_a_backend_that_was_drained_meanwhile(drained: tuple[int, ...], asked: list[int]) -> None:
    requests: list[str] = []

    def script(name: str):  # type: ignore[no-untyped-def]
        async def answer(exchange: Exchange) -> None:
            requests.append(name)
            if len(requests) == 1:
                names = frozenset(order[i] for i in drained)
                running.router.drained = lambda: names
                exchange.answer({"error": {"message": "down"}}, 503)
            else:
                exchange.answer(completion())

        return answer

    async with forwarding(*map(script, "abc")) as (running, _):
        call = running.sending(chat())
        order = [target.backend.name for target in call._candidates.left]
        answer = await call.run()
        answer.close()
    assert requests == [order[i] for i in asked]
