"""What an API process makes of the supervisor's answers, and who may give it orders."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import httpx
import pytest

from embedway.api import supervisor_orders
from embedway.api.supervisor_orders import SupervisorOrders
from embedway.errors import EngineNotReady, InvalidValue, ModelConflict, RestartInProgress, ShuttingDown
from embedway.supervisor_words import LONGEST_ORDER, OrderEnd, RestartEngines, read_up

Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]


class Supervisor:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def hear(self, word: str) -> bool:
        self.heard.append(word)
        return True


async def test_nothing_is_said_to_a_supervisor_that_waits_for_the_first_start() -> None:
    supervisor = Supervisor()
    with pytest.raises(EngineNotReady):
        await SupervisorOrders(supervisor.hear, lambda: False).restart("a")
    assert supervisor.heard == []


async def test_each_caller_gets_the_end_of_its_own_order() -> None:
    supervisor = Supervisor()
    orders = SupervisorOrders(supervisor.hear)
    asked = [asyncio.create_task(orders.restart(name)) for name in ("a", "b", "c")]
    await asyncio.sleep(0)
    heard = [read_up(word) for word in supervisor.heard]
    assert [order.model for order in heard if isinstance(order, RestartEngines)] == ["a", "b", "c"]
    asked[1].cancel()
    orders.on_end(OrderEnd(2))
    orders.on_end(OrderEnd(1))
    orders.on_end(OrderEnd.of(0, RestartInProgress()))
    with pytest.raises(RestartInProgress):
        await asked[0]
    await asked[2]


async def test_an_error_comes_with_the_supervisor_s_sentence_and_field() -> None:
    orders = SupervisorOrders(Supervisor().hear)
    asked = asyncio.create_task(orders.unload("a"))
    await asyncio.sleep(0)
    orders.on_end(OrderEnd.of(0, ModelConflict(param="model", name="a", problem="is the only one")))
    with pytest.raises(ModelConflict, match="The model 'a' is the only one") as caught:
        await asked
    assert (caught.value.param, caught.value.status) == ("model", 409)


async def test_a_supervisor_that_is_silent_or_cannot_be_told_is_shutting_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_orders, "RESTART_SECONDS", 0.01)
    for orders in (SupervisorOrders(Supervisor().hear), SupervisorOrders(lambda word: False)):
        with pytest.raises(ShuttingDown):
            await orders.restart("a")


async def test_an_order_that_a_pipe_might_tear_is_refused() -> None:
    supervisor = Supervisor()
    with pytest.raises(InvalidValue, match=f"longer than {LONGEST_ORDER} bytes"):
        await SupervisorOrders(supervisor.hear).load({"model_path": "a" * LONGEST_ORDER})
    assert supervisor.heard == []


@pytest.mark.parametrize("path", ["/restart_engines", "/load_model", "/unload_model"])
async def test_only_the_admin_may_give_orders(connect: Connect, path: str) -> None:
    async with connect() as client:
        refused = await client.post(path, json={"model": "a"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_only")
    async with connect(admin_api_key="admin") as client:
        assert (await client.post(path, json={"model": "a"})).status_code == 401
