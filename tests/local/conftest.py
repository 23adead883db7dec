"""What several tests of `local` ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.functions import Telephone


@pytest.fixture
async def telephone() -> AsyncIterator[Telephone]:
    """Where handlers that are told to `call` arrive."""
    async with Telephone() as telephone:
        yield telephone
