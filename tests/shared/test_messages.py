"""What clients send: every message of the protocol, and for each wrong one the error that names its field."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from shared.messages import (
    ACTIONS,
    MAX_MESSAGE_BYTES,
    USER_ID,
    GetPresence,
    Heartbeat,
    Leave,
    MessageRefused,
    PresenceUpdate,
    Sync,
    id_of,
    parse_message,
)
from tests.support.bad_messages import LONE_SURROGATE, NO_MESSAGE, WRONG_ACTION, WRONG_FIELD


def refusal(body: str) -> MessageRefused:
    """The refusal of a body that must be refused."""
    with pytest.raises(MessageRefused) as refused:
        parse_message(body)
    return refused.value


@pytest.mark.parametrize("body", NO_MESSAGE.values(), ids=NO_MESSAGE.keys())
def test_a_body_that_is_not_a_json_object_is_refused(body: str) -> None:
    """A body that is not a JSON object is answered with one `invalid_message` that names no field."""
    refused = refusal(body)
    assert (refused.code, refused.field, refused.id) == ("invalid_message", None, None)
    assert str(refused) in (
        "the message is not JSON",
        "the message is not a JSON object",
        "the message is not valid Unicode",
    )


@pytest.mark.parametrize("action", WRONG_ACTION, ids=str)
def test_an_unknown_action_is_refused(action: Any) -> None:
    """The error for an unknown action lists the actions of the protocol."""
    refused = refusal(json.dumps({"action": action, "id": "q1"}))
    assert (refused.code, refused.field, refused.id) == ("unknown_action", "action", "q1")
    assert all(known in str(refused) for known in ACTIONS)


def test_a_message_without_an_action_is_refused() -> None:
    """The error names the missing field."""
    refused = refusal('{"id":"q1"}')
    assert (refused.code, refused.field, refused.id) == ("invalid_message", "action", "q1")


@pytest.mark.parametrize(("action", "fields", "field"), WRONG_FIELD, ids=lambda part: str(part)[:40])
def test_a_wrong_field_is_named(action: str, fields: dict[str, Any], field: str) -> None:
    """A field of the wrong type, size or content is named, with a path if it is nested."""
    refused = refusal(json.dumps({"action": action, "id": "q1", **fields}))
    assert (refused.code, refused.field) == ("invalid_message", field)
    assert refused.id == (None if field == "id" else "q1")
    frame = refused.frame()
    assert frame["type"] == "error"
    assert frame["field"] == field
    assert 0 < len(frame["message"]) < 200
    assert "pydantic" not in frame["message"].lower()


def test_the_largest_message_is_4096_bytes_however_few_its_characters() -> None:
    """A message may have 4,096 bytes of UTF-8, and not one more."""
    message = '{"action":"heartbeat","x":"%s"}'
    room = MAX_MESSAGE_BYTES - len(message) + 2
    parse_message(message % ("x" * room))
    assert refusal(message % ("x" * (room + 1))).code == "too_large"
    assert refusal(message % ("é" * (room // 2 + 1))).code == "too_large"


def test_each_action_has_its_type() -> None:
    """Each action gives its own type, with the given fields and the protocol's defaults for the others."""
    assert parse_message('{"action":"sync","seq":12,"replaces":"Df14mfUXIAMCIyg="}') == Sync(
        action="sync", seq=12, replaces="Df14mfUXIAMCIyg="
    )
    assert parse_message('{"action":"heartbeat"}') == Heartbeat(action="heartbeat", active=True, status=None)
    assert parse_message('{"action":"leave","id":"l"}') == Leave(action="leave", id="l")
    query = parse_message('{"action":"get_presence","userIds":["bob","a|b@c.example"]}')
    assert query == GetPresence(action="get_presence", userIds=["bob", "a|b@c.example"])
    update = parse_message('{"action":"presence_update","status":"busy","scope":"user","until":1764003600000,"n":3}')
    assert isinstance(update, PresenceUpdate)
    assert (update.status, update.scope, update.until, update.n) == ("busy", "user", 1764003600000, 3)


def test_an_absent_field_is_not_a_null() -> None:
    """`customStatus: null` clears and an absent one changes nothing, so the two must differ."""
    absent = parse_message('{"action":"presence_update","status":"busy"}')
    cleared = parse_message('{"action":"presence_update","customStatus":null}')
    assert "customStatus" not in absent.model_fields_set
    assert "customStatus" in cleared.model_fields_set


def test_unknown_fields_are_ignored() -> None:
    """Fields of a message that this version does not know are ignored, so that clients may be newer."""
    parse_message('{"action":"leave","mood":[1,{"a":null}]}')
    update = parse_message('{"action":"presence_update","status":"busy","colour":"red"}')
    assert isinstance(update, PresenceUpdate)
    assert update.model_dump(exclude_unset=True) == {"action": "presence_update", "status": "busy"}


def test_a_misspelled_custom_status_is_refused() -> None:
    """Ignoring `txt` would leave an empty custom status, which clears the one that was."""
    refused = refusal('{"action":"presence_update","customStatus":{"txt":"hi"},"id":"q1"}')
    assert refused.frame() == {
        "type": "error",
        "code": "invalid_message",
        "message": "unknown field",
        "field": "customStatus.txt",
        "id": "q1",
    }


@pytest.mark.parametrize("fields", [{}, {"scope": "user"}, {"n": 3}, {"statos": "busy"}], ids=str)
def test_an_update_of_nothing_is_refused(fields: dict[str, Any]) -> None:
    """An update without a status and without a custom status is refused, as it is over HTTP."""
    refused = refusal(json.dumps({"action": "presence_update", "id": "q1", **fields}))
    assert (refused.code, refused.field, refused.id) == ("invalid_message", None, "q1")
    assert str(refused) == "give at least one of status, customStatus"


@pytest.mark.parametrize(
    ("action", "fields", "error"),
    [
        ("get_presence", {"userIds": ["u"] * 101}, "at most 100 users"),
        ("get_presence", {"userIds": []}, "at least one user"),
        ("get_presence", {"userIds": "bob"}, "must be a list"),
        ("get_presence", {}, "must be given"),
        ("sync", {"replaces": "a b"}, "must be a connectionId as the service gave it"),
        ("sync", {"seq": -1}, "must be at least 0"),
        ("sync", {"seq": 10**14}, "must be at most 99999999999999"),
        ("presence_update", {"status": "asleep"}, "must be 'online', 'busy' or 'away'"),
        ("presence_update", {"status": None}, "must be 'online', 'busy' or 'away'"),
        ("presence_update", {"customStatus": "Lunch"}, "must be a JSON object"),
        ("presence_update", {"customStatus": {"text": "x" * 141}}, "at most 140 characters"),
        (
            "presence_update",
            {"customStatus": {"text": "x", "until": 1764003600}},
            "is past: times are in milliseconds since the epoch, and this one is in seconds",
        ),
    ],
    ids=lambda part: str(part)[:40],
)
def test_an_error_uses_the_terms_of_the_protocol(action: str, fields: dict[str, Any], error: str) -> None:
    """An error is about users, characters and times, and not about the types that read them."""
    assert str(refusal(json.dumps({"action": action, **fields}))) == error


def test_text_and_emoji_are_measured_in_code_points() -> None:
    """140 code points of text and 16 of emoji are allowed, whatever their bytes."""
    custom = {"text": "😀" * 140, "emoji": "👨‍👩‍👧‍👦" + "x" * 9}
    parse_message(json.dumps({"action": "presence_update", "customStatus": custom}))


@pytest.mark.parametrize("user_id", ["a", "A-Z.0_9~:@|+=-", "...", ".a", "auth0|5f7c8", "tenant:user", "u" * 128])
def test_user_ids_of_every_common_form_are_allowed(user_id: str) -> None:
    """Ids as identity providers create them are valid user ids."""
    assert USER_ID.match(user_id)


@pytest.mark.parametrize("user_id", ["", ".", "..", "a b", "a/b", "a%20", "{a}", "a*", "a\n", "\n", "ä", "u" * 129])
def test_text_with_a_meaning_in_paths_or_keys_is_no_user_id(user_id: str) -> None:
    """Characters that would change a path or a key are refused in user ids."""
    assert not USER_ID.match(user_id)


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"id":5}', '{"id":"%s"}' % ("x" * 65), '{"id":"\\u0007"}', "[" * 4000]
)
def test_an_id_that_cannot_be_used_is_none(body: str) -> None:
    """Without a usable `id` the result is None, and reading never fails."""
    assert id_of(body) is None


def test_a_refusal_has_only_the_fields_that_are_known() -> None:
    """An error frame has a field, an id and a time to wait only if there is one."""
    assert MessageRefused("too_large", "too large").frame() == {
        "type": "error",
        "code": "too_large",
        "message": "too large",
    }
    assert MessageRefused("rate_limited", "slower", id="", retry_after=0).frame() == {
        "type": "error",
        "code": "rate_limited",
        "message": "slower",
        "id": "",
        "retryAfter": 0,
    }


def test_a_thousand_broken_messages_are_refused_and_none_breaks_anything(rng: random.Random) -> None:
    """A thousand good messages, each broken at random, are either still messages or refused with a documented error."""
    good = [
        '{"action":"sync","seq":12,"replaces":"Df14mfUXIAMCIyg="}',
        '{"action":"presence_update","status":"busy","customStatus":{"text":"café","emoji":"🎧","until":99}}',
        '{"action":"get_presence","userIds":["bob","carol"],"id":"q1"}',
    ]
    dirt = ["", '"', "{", "]", "null", "9e9", "\x00", LONE_SURROGATE, "\\u", ",", "é"]
    frames = []
    for _ in range(1000):
        text = rng.choice(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(dirt) + text[at + rng.randint(0, 3) :]
        try:
            parse_message(text)
        except MessageRefused as refused:
            frames.append(refused.frame())
    assert {frame["code"] for frame in frames} <= {"invalid_message", "unknown_action"}
    json.dumps(frames)
