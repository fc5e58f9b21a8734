"""The tables of this tree: written by the command, of the recipes of this tree or visibly older."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.architecture.test_conventions import MACHINE_PATH
from tuning.tables.declaration import DECLARED, PAGES, read_declarations
from tuning.tables.digests import origin, recipe_without_data
from tuning.tables.measurements import MEASURED, read_measurements, wanted
from tuning.tables.write import ROOT, Places, changed_files

TABLES = read_declarations()
RESULTS = sorted(MEASURED.glob("*.json"))


def test_pages_show_what_the_command_would_write() -> None:
    """Also fails, with the reason, if a result belongs to another recipe than this tree's and does not say so."""
    changed = [path.relative_to(ROOT).as_posix() for path in changed_files(Places())]
    assert not changed, f"{', '.join(changed)}: run `make tables`"


def test_every_page_has_tables() -> None:
    assert {table.page for table in TABLES.values()} == set(PAGES)
    assert "toy" in TABLES and len(TABLES) > 10
    assert {path.stem for path in DECLARED.glob("*.toml")} == {path.stem for path in RESULTS}


def test_the_demo_s_table_has_run_records_of_this_recipe() -> None:
    stored = read_measurements("toy")
    for key, instance in wanted("toy", TABLES["toy"]).items():
        assert stored[key].digest == origin(instance).digest
        assert re.fullmatch(r"[0-9a-f]{64}", stored[key].fingerprint)
        assert re.fullmatch(r"[0-9a-f]{40}", stored[key].commit), "measured with uncommitted changes"


@pytest.mark.parametrize("name", [name for name in TABLES if TABLES[name].measured_before])
def test_an_older_table_says_so_on_its_page(name: str) -> None:
    text = (ROOT / TABLES[name].page).read_text()
    block = text.partition(f"<!-- table: {name} -->")[2].partition("<!-- /table -->")[0]
    assert "\n**Older than the recipe in this tree**" in block or "\n**No run record**" in block


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_no_path_of_one_machine_in_results(path: Path) -> None:
    assert MACHINE_PATH.search(path.read_text()) is None
    texts = [value for entry in json.loads(path.read_text()) for value in entry.values() if isinstance(value, str)]
    assert not [text for text in texts if "/" in text]


def test_commands_in_declarations_name_shipped_recipes() -> None:
    for table in TABLES.values():
        assert recipe_without_data(table.recipe, table.set).settings.name == table.recipe
