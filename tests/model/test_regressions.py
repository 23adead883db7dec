"""Faults that random histories and a careful reader have found, each as the shortest history that showed it."""

from __future__ import annotations

from typing import Any

from shared.delivery import Request
from tests.support.service import Bench


def test_a_user_who_hid_while_waiting_in_a_viewers_window_is_not_shown_to_it(bench: Bench) -> None:
    """A frame that carries what waited never shows a viewer what only the watchers of that moment may see."""
    bench.service.set_contacts("vic", ["xan", "yul", "wim"])
    bench.service.set_contacts("xan", ["wim"])
    xan, yul, vic, wim = (bench.open(user) for user in ("xan", "yul", "vic", "wim"))
    bench.sweep(5)
    began = bench.clock()
    bench.update(xan, status="busy", scope="user", until=began + 60)
    bench.update(yul, status="busy", scope="user", until=began + 60)
    for text in ("so many frames", "that the rest waits"):
        bench.update(wim, customStatus={"text": text})
    bench.service.set_privacy("xan", hide_from=["vic"])
    assert bench.client.hexists(bench.store.key("pending", "vic"), "xan")

    def settle_slowly(requests: list[Request], _now: int) -> None:
        if any(request.verb == "settle" for request in requests):
            bench.clock.advance(0.05)  # meanwhile vic's window ends

    bench.on_stage = settle_slowly
    bench.clock.now = began + 60
    bench.service._settle(["xan", "yul"])
    assert [event["status"] for event in bench.pusher.changes(vic.id, "yul")][-1] == "online"
    told: list[dict[str, Any]] = bench.pusher.changes(vic.id, "xan")
    assert [event["status"] for event in told][-1] == "offline"


def test_news_of_a_stranger_are_not_sent(bench: Bench) -> None:
    """When nobody may see anybody any more, a frame that waited says nothing, rather than news without a `rev`."""
    bench.service.set_contacts("vic", ["wim"])
    wim, vic = bench.open("wim"), bench.open("vic")
    bench.sweep(5)
    for text in ("so many frames", "that the rest", "has to wait"):
        bench.update(wim, customStatus={"text": text})
    assert bench.client.hexists(bench.store.key("pending", "vic"), "wim")
    bench.service.set_graph_loaded(False)
    before = len(bench.pusher.changes(vic.id))
    bench.sweep(3)
    assert bench.pusher.changes(vic.id)[before:] == []
