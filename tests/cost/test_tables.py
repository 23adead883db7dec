"""The documents show the numbers of the model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cost.bill import total
from cost.prices import SOURCES
from cost.tables import DOCS, PAGES, filled, tables
from cost.workload import Workload

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_the_documents_are_up_to_date(page: Path) -> None:
    """The documents hold the tables that `python -m cost --markdown` writes."""
    text = page.read_text("utf-8")
    assert "<!-- table: " in text
    assert filled(text) == text, "out of date: run `python -m cost --markdown`"


def test_the_cost_page_has_all_tables_and_sources() -> None:
    """docs/cost.md shows each table and links each price page."""
    text = (DOCS / "cost.md").read_text("utf-8")
    assert set(re.findall(r"<!-- table: (\w+) -->", text)) == set(tables())
    for service, address in SOURCES.items():
        assert f"[{service}]({address})" in text


def test_the_readme_has_the_cost_of_an_idle_stack() -> None:
    """The README's figure is the model's."""
    [figure] = re.findall(r"idle stack costs about \$(\d+) a month", (ROOT / "README.md").read_text("utf-8"))
    assert int(figure) == round(total(Workload(users=0)))
