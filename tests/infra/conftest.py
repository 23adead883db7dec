"""The stack in each of its modes, synthesized once for all tests."""

from __future__ import annotations

import pytest

from tests.support.synthesis import MODES, Synthesis, synthesize


@pytest.fixture(scope="session")
def syntheses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Synthesis]:
    """The result of each mode."""
    return {mode: synthesize(tmp_path_factory.mktemp(mode), **context) for mode, context in MODES.items()}


@pytest.fixture(params=MODES)
def synthesis(request: pytest.FixtureRequest, syntheses: dict[str, Synthesis]) -> Synthesis:
    """Each mode in turn."""
    mode: str = request.param
    return syntheses[mode]
