"""Who sees whom among simulated users."""

from __future__ import annotations

import pytest

from load.contacts import from_pairs, ring
from load.errors import LoadError


@pytest.mark.parametrize(("count", "degree"), [(2, 0), (2, 1), (5, 2), (6, 3), (6, 5), (7, 6), (100, 20)])
def test_all_users_of_a_ring_have_the_same_number_of_contacts(count: int, degree: int) -> None:
    """The relation is mutual."""
    contacts = ring(count, degree)
    assert [len(set(others) - {place}) for place, others in enumerate(contacts)] == [degree] * count
    assert all(place in contacts[other] for place, others in enumerate(contacts) for other in others)


@pytest.mark.parametrize(("count", "degree", "words"), [(4, 4, "at most 3 contacts each"), (5, 3, "must be even")])
def test_an_impossible_ring_is_refused(count: int, degree: int, words: str) -> None:
    """The error says why."""
    with pytest.raises(LoadError, match=words):
        ring(count, degree)


def test_pairs_become_a_shape() -> None:
    """Names are dropped; the graph stays the same."""
    assert from_pairs([("x", "m"), ("a", "x")]) == [[2], [2], [1, 0]]
