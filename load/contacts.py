"""Who sees whom among simulated users: a ring, or the shape of a real graph. Users are places in a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from load.errors import LoadError


def ring(count: int, degree: int) -> list[list[int]]:
    """For each of `count` places, its `degree` nearest neighbors in a ring. The relation is mutual.

    Raises:
        LoadError: no such ring exists.
    """
    if not 0 <= degree < count:
        raise LoadError(f"{count:,} users can have at most {count - 1:,} contacts each, not {degree:,}")
    if degree % 2 and count % 2:
        raise LoadError(f"{count:,} users cannot have {degree:,} contacts each: one of the two numbers must be even")
    steps = [step for near in range(1, degree // 2 + 1) for step in (near, -near)]
    steps += [count // 2] if degree % 2 else []
    return [[(place + step) % count for step in steps] for place in range(count)]


def from_pairs(pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
    """For each user that occurs in some pairs, in order of their ids, the places of its contacts."""
    places: Mapping[str, int] = {
        name: place for place, name in enumerate(sorted({name for pair in pairs for name in pair}))
    }
    contacts: list[list[int]] = [[] for _ in places]
    for first, second in pairs:
        contacts[places[first]].append(places[second])
        contacts[places[second]].append(places[first])
    return contacts
