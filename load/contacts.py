"""Who sees whom among simulated users, as places in a list: a ring, or the shape of a real graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from load.errors import LoadError


def ring(count: int, degree: int) -> list[list[int]]:
    """For each of `count` places its `degree` nearest in a ring, whose nearest it is too.

    Raises:
        LoadError: there is no such ring.
    """
    if not 0 <= degree < count:
        raise LoadError(f"{count:,} users have {count - 1:,} contacts each at most, and not {degree:,}")
    if degree % 2 and count % 2:
        raise LoadError(f"{count:,} users cannot have {degree:,} contacts each: one of the two numbers has to be even")
    steps = [step for near in range(1, degree // 2 + 1) for step in (near, -near)]
    steps += [count // 2] if degree % 2 else []
    return [[(place + step) % count for step in steps] for place in range(count)]


def of_pairs(pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
    """For each user in some pairs, in the order of their names, the places of those who are in a pair with it."""
    names: Mapping[str, int] = {
        name: place for place, name in enumerate(sorted({name for pair in pairs for name in pair}))
    }
    contacts: list[list[int]] = [[] for _ in names]
    for first, second in pairs:
        contacts[names[first]].append(names[second])
        contacts[names[second]].append(names[first])
    return contacts
