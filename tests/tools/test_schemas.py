"""The generated descriptions of the APIs match the code."""

from __future__ import annotations

import pytest

from tools import schemas


@pytest.mark.parametrize("path", schemas.DOCUMENTS)
def test_the_file_is_up_to_date(path: str) -> None:
    """The file holds what the generator makes of the code; `make schemas` writes it."""
    written = (schemas.ROOT / path).read_text("utf-8")
    assert written == schemas.text(schemas.DOCUMENTS[path]()), "out of date: run `make schemas`"
