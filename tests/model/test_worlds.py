"""Two worlds that differ only in what a hidden user does: a viewer cannot tell them apart, by any surface or number.

"hid" hides from "vic" in some way. In one world hid then continues to act; in the other hid does nothing. Whatever vic
receives (every byte, on every connection, with every poll) or could read, also over HTTP, is recorded in both worlds
and must be equal until hid shows again. From then on the model decides what vic may see: the present record, nothing
older.
"""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import redis
from hypothesis import given

from shared.delivery import Post
from tests.model.histories import Player, Step, steps_of
from tests.model.world import World

HIDDEN, VIEWER, OTHERS = "hid", "vic", ("ann", "bob")
USERS = (HIDDEN, VIEWER, *OTHERS)
WAYS = ("invisible", "hide", "block", "remove")

deeds = steps_of(  # none of them takes time, so both worlds have the same clock
    "connect", "sync", "beat", "update", "describe", "query", "poll", "stop_polling", "leave", "disconnect", "vanish",
    "sign_out", "set_status", "gone", "policy", users=[HIDDEN], named=OTHERS, kill=False,
)  # fmt: skip
policies = steps_of("policy", users=[HIDDEN], named=OTHERS, kill=False)
events = steps_of(
    "connect", "sync", "beat", "reconnect", "update", "describe", "query", "poll", "stop_polling", "leave",
    "disconnect", "vanish", "invisible", "policy", "hide", "contacts", "moment", "live", "silence",
    users=[VIEWER, *OTHERS], named=OTHERS, kill=False,
)  # fmt: skip


def nameless(frame: dict[str, Any]) -> dict[str, Any]:
    """A frame without the random name of its snapshot."""
    return {name: value for name, value in frame.items() if name != "snapshot"}


class Trace:
    """All that vic can observe."""

    def __init__(self, client: redis.Redis) -> None:
        client.flushall()
        self.world = World(client, USERS, watched=False)
        self.player = Player(self.world)
        self.seen: list[Any] = []
        posted = self.world.bench.pusher.deliver

        def deliver(frame: Post) -> None:
            if frame.connection_id.startswith(VIEWER):
                self.seen.append((self.world.now, frame.connection_id, nameless(json.loads(frame.data))))
            posted(frame)

        self.world.bench.pusher.deliver = deliver

    def play(self, steps: list[Step]) -> None:
        """Execute steps; due users are settled after each of them."""
        for step in steps:
            self.player.play(step)
            self.world.sweep(0)

    def look(self) -> None:
        service = self.world.bench.service
        now, seconds = self.world.now, self.world.now // 1000
        known = service.get_snapshot(VIEWER, None, seconds)
        service.end_connection(VIEWER, f"{HIDDEN}-1=", seconds)
        self.seen.append((
            now,
            [nameless(answer) for _, user, answer in self.world.answers if user == VIEWER and answer][-1:],
            known,
            service.get_snapshot(VIEWER, known["seq"], seconds),
            service.get_bulk_presence(VIEWER, list(USERS), seconds),
            service.inspect_self(VIEWER, seconds),
            service.inspect_user(VIEWER),
            service.get_user_contacts(VIEWER),
            service.contacts.get_privacy(VIEWER),
        ))  # fmt: skip

    def hide(self, way: str, on: bool) -> None:
        match way:
            case "invisible":
                self.world.set_privacy(HIDDEN, invisible=on)
            case "hide":
                self.world.set_privacy(HIDDEN, hide_from=[VIEWER] if on else [])
            case "block":
                self.world.set_privacy(HIDDEN, blocks=[VIEWER] if on else [])
            case _:
                add, remove = ([], [VIEWER]) if on else ([VIEWER], [])
                self.world.set_contacts(HIDDEN, add=add, remove=remove, mutual=False)


@given(
    way=st.sampled_from(WAYS),
    before=st.lists(st.one_of(deeds, events), max_size=8),
    during=st.lists(st.tuples(st.lists(deeds, max_size=3), st.one_of(events, events, events, policies)), max_size=10),
    after=st.lists(st.one_of(deeds, events), max_size=4),
)
def test_a_hidden_users_actions_are_visible_nowhere(
    server: redis.Redis, way: str, before: list[Step], during: list[tuple[list[Step], Step]], after: list[Step]
) -> None:
    """Frames, snapshots, responses and numbers do not depend on what the hidden user does, until the user shows."""
    traces = []
    for lives in (True, False):
        trace = Trace(server)
        for user in USERS:
            trace.world.set_contacts(user, add=[other for other in USERS if other > user])
        for user in (HIDDEN, VIEWER):
            trace.world.sync(trace.world.connect(user))
        trace.play(before)
        trace.hide(way, on=True)
        trace.world.sweep(0)
        for hidden_steps, step in during:
            trace.world.sweep(0)  # reading may have made a user due: settle at this moment in both worlds
            if lives:
                # An invisible user's policy acts like an offline user's: on what contacts see.
                trace.play([deed for deed in hidden_steps if way != "invisible" or deed[0] != "policy"])
            trace.play([step])
            trace.look()
        traces.append(trace.seen[:])
        trace.hide(way, on=False)
        trace.play(after)
        trace.world.settle_down()
        trace.world.check()
        trace.world.check_pictures()
        trace.world.close()
    assert json.dumps(traces[0], default=repr) == json.dumps(traces[1], default=repr)
