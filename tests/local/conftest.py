"""Fixtures of the tests of `local`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.functions import Telephone


@pytest.fixture
async def telephone() -> AsyncIterator[Telephone]:
    """The receiver of handlers that are told to `call`."""
    async with Telephone() as telephone:
        yield telephone
