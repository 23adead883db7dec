"""Who sees whom among simulated users."""

from __future__ import annotations

import pytest

from load.contacts import from_pairs, ring
from load.errors import LoadError


@pytest.mark.parametrize(("count", "degree"), [(2, 0), (2, 1), (5, 2), (6, 3), (6, 5), (7, 6), (100, 20)])
def test_in_a_ring_all_have_as_many_contacts(count: int, degree: int) -> None:
    """Each so many others, who have it as a contact too."""
    contacts = ring(count, degree)
    assert [len(set(others) - {place}) for place, others in enumerate(contacts)] == [degree] * count
    assert all(place in contacts[other] for place, others in enumerate(contacts) for other in others)


@pytest.mark.parametrize(("count", "degree", "words"), [(4, 4, "at most 3 contacts each"), (5, 3, "must be even")])
def test_there_is_not_every_ring(count: int, degree: int, words: str) -> None:
    """What cannot be is refused in words."""
    with pytest.raises(LoadError, match=words):
        ring(count, degree)


def test_pairs_are_a_shape() -> None:
    """Names are gone; who sees how many is as it was."""
    assert from_pairs([("x", "m"), ("a", "x")]) == [[2], [2], [1, 0]]
