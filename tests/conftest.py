"""Shared by all tests: the length of random histories, and a random source that reports its seed.

Nothing about presence belongs here; fakes and servers live beside the tests that use them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# awscrt is for benchmarks; deployments have botocore's own signers. Read when botocore is imported.
os.environ["BOTO_DISABLE_CRT"] = "true"

# Histories run on real servers: their cost does not affect whether they are right. On a laptop each run tries
# new ones, and `print_blob` reproduces a failing one; in CI they are the same, so that failures come from the change.
_patient = settings(
    deadline=None, derandomize=False, print_blob=True, suppress_health_check=[HealthCheck.too_slow], max_examples=50
)
settings.register_profile("dev", _patient)
settings.register_profile("ci", _patient, max_examples=200, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


LONGEST = ("deployment", "model", "browser", "end_to_end", "infra")
"""Folders whose files take longest: they start first, so that no core waits for another at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first; the rest stays in its order."""

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def failed_requests(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test in which a request of the state machine failed, unless it is marked with `unreadable`."""
    yield
    failed = [record.getMessage() for record in caplog.get_records("call") if record.name == "shared.store"]
    assert request.node.get_closest_marker("unreadable") or not failed, failed


@pytest.fixture
def rng() -> random.Random:
    """A random source; a failing test shows its seed, and `TEST_SEED=<seed>` reproduces its numbers."""
    seed = int(os.environ.get("TEST_SEED") or random.SystemRandom().getrandbits(32))
    print(f"TEST_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    return random.Random(seed)
