"""Random texts that are not messages of the protocol, each wrong in its own way, and messages with typos.

Whatever `malformed` makes is invalid by construction, so that no test depends on the service's own parser.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from typing import Any

LARGEST = 4096
"""The largest size of a message, in bytes."""
WRONG_VALUES: dict[tuple[str, str], list[Any]] = {
    ("sync", "seq"): [-1, 1.5, "7", True, 10**15, 10**300, [], {}],
    ("sync", "replaces"): ["", "a b", "ä", 7, [], "x" * 129],
    ("heartbeat", "active"): [0, 1, "true", [], {}],
    ("heartbeat", "status"): ["offline", "Busy", "", 1, ["busy"]],
    ("heartbeat", "id"): [7, "x" * 65, "a\nb", "\u2028", {}, []],
    ("presence_update", "status"): ["invisible", "ONLINE", 0, {}],
    ("presence_update", "scope"): ["everywhere", None, 1],
    ("presence_update", "until"): [-1, 1, 10**14, "tomorrow", 1.5, True],
    ("presence_update", "customStatus"): ["Lunch", 7, [], {"text": 7}, {"text": "x" * 141}, {"emoji": "🎧" * 17}],
    ("presence_update", "n"): [0, -3, 2**31 + 1, "1", 1.5, []],
    ("get_presence", "userIds"): [[], "bob", {}, [7], [""], ["."], ["a/b"], ["x" * 129], ["a"] * 101, [["bob"]]],
}
"""Invalid values of fields, by action and field."""
CONTROL = [chr(code) for code in (*range(32), *range(127, 160), 0x2028, 0x2029)]


def message(rng: random.Random) -> dict[str, Any]:
    """A valid message; a connection stays open after it."""
    return rng.choice(
        [
            {"action": "sync", "seq": rng.randrange(10**14), "id": word(rng)},
            {"action": "heartbeat", "active": rng.random() < 0.5, "id": word(rng)},
            {"action": "presence_update", "status": rng.choice(["online", "busy", "away"]), "id": word(rng)},
            {"action": "presence_update", "customStatus": {"text": word(rng), "emoji": "🎧"}, "id": word(rng)},
            {"action": "get_presence", "userIds": [word(rng) for _ in range(rng.randint(1, 5))], "id": word(rng)},
        ]
    )


def malformed(rng: random.Random) -> str:
    """A text that is not a message."""
    return rng.choice(KINDS)(rng)


def slip(rng: random.Random) -> str:
    """A message with up to three characters removed, added or changed; it may still be valid."""
    text = list(json.dumps(message(rng)))
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(text))
        put = rng.choice(["", rng.choice(string.printable), chr(rng.randrange(0xD800))])
        text[place : place + rng.randint(0, 1)] = put
    return "".join(text)


def word(rng: random.Random) -> str:
    """A few letters."""
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 12)))


def noise(rng: random.Random) -> str:
    """Random characters after an x, with which no JSON begins."""
    return "x" + "".join(chr(rng.randrange(0xD800)) for _ in range(rng.randint(0, 200)))


def broken_off(rng: random.Random) -> str:
    """The beginning of a message, cut off."""
    text = json.dumps(message(rng))
    return text[: rng.randrange(1, len(text))]


def something_else(rng: random.Random) -> str:
    """JSON that is not an object."""
    return json.dumps(rng.choice([None, True, rng.random(), rng.getrandbits(80), word(rng), [message(rng)], []]))


def deep(rng: random.Random) -> str:
    """JSON nested deeper than a parser may accept, closed or not."""
    depth = rng.randint(100, LARGEST // 8)
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}"), ('{"action":', "}")])
    return opening * depth + rng.choice(["", "0" + closing * depth])


def no_action(rng: random.Random) -> str:
    """An object without an action, or with one that is not a string."""
    rest = {name: value for name, value in message(rng).items() if name != "action"}
    return json.dumps(rest | rng.choice([{}, {"action": None}, {"action": 7}, {"action": ["sync"]}, {"action": {}}]))


def unknown_action(rng: random.Random) -> str:
    """An action that the protocol does not have."""
    wish = rng.choice(["", "Sync", "sync ", "$connect", "$disconnect", "$default", "\u0000", "no-" + word(rng)])
    return json.dumps(message(rng) | {"action": wish})


def wrong_value(rng: random.Random) -> str:
    """A field of the wrong type, too long, too large or too small."""
    (action, field), values = rng.choice(list(WRONG_VALUES.items()))
    return json.dumps({"action": action, "userIds": ["bob"], field: rng.choice(values)})


def no_number(rng: random.Random) -> str:
    """A number that JSON does not have, or that no frame may contain."""
    number = rng.choice(["NaN", "Infinity", "-0x1", "1e999", "01", "1" * 2000, "--1"])
    return f'{{"action":"sync","seq":{number}}}'


def control_character(rng: random.Random) -> str:
    """An invisible control character."""
    text = word(rng) + rng.choice(CONTROL) + word(rng)
    return json.dumps(
        rng.choice(
            [
                {"action": "presence_update", "customStatus": {"text": text}},
                {"action": "presence_update", "customStatus": {"emoji": text[-2:] + rng.choice(CONTROL)}},
                {"action": "sync", "id": text},
            ]
        )
    )


def half_a_character(rng: random.Random) -> str:
    """Half of a surrogate pair, which is not valid Unicode."""
    return f'{{"action":"sync","id":"{word(rng)}\\ud8{rng.randrange(256):02x}"}}'


def too_large(rng: random.Random) -> str:
    """A valid message, except for its size."""
    return json.dumps(message(rng) | {"more": "x" * rng.randint(LARGEST, 4 * LARGEST)})


KINDS: list[Callable[[random.Random], str]] = [
    noise,
    broken_off,
    something_else,
    deep,
    no_action,
    unknown_action,
    wrong_value,
    no_number,
    control_character,
    half_a_character,
    too_large,
]
