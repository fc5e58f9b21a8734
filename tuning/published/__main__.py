"""`python -m tuning.published NAME`: each setting of a published system's recipe beside the published value."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tuning.published.table import Compared, Published, PublishedError, compared, names, read_table
from wsss.pipeline.dry_recipe import without_data
from wsss.pipeline.recipe import RecipeError, load_recipe
from wsss.pipeline.recipe_files import RECIPES


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns 0, or 1 if recipe and table do not agree."""
    parser = argparse.ArgumentParser(
        prog="python -m tuning.published",
        description=__doc__.partition(": ")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help=f"one of {', '.join(names())}")
    parser.add_argument("--differs", action="store_true", help="only what is not as published, or not verified")
    given = parser.parse_args(arguments)
    try:
        table = read_table(given.name)
        recipe = load_recipe(RECIPES / f"{table.recipe}.toml", stand_in=without_data)
        print("\n".join(lines(table, compared(table, recipe), all_rows=not given.differs)))
    except (PublishedError, RecipeError) as error:
        print(f"published: {error}", file=sys.stderr)
        return 1
    return 0


def lines(table: Published, found: Sequence[Compared], *, all_rows: bool) -> list[str]:
    """The table as lines of Markdown."""
    shown = [one for one in found if all_rows or one.row.differs or one.row.unpublished or one.row.unverified]
    text = [f"# {table.recipe}", "", "| score | published | measured by | source |", "|---|---|---|---|"]
    text += [f"| {one.what} | {one.published} | {one.instance} | {one.source} |" for one in table.scores]
    text += ["", "| setting | published | here | source | differs |", "|---|---|---|---|---|"]
    text += [_row(one) for one in shown]
    text += [
        "",
        *(f"- Differs: {one.what}: published {one.published}; here {one.ours}: {one.reason}." for one in table.differs),
    ]
    return [*text, "", *(f"- {short}: {source}" for short, source in table.sources.items())]


def _row(one: Compared) -> str:
    published = "not known" if one.row.unpublished else _text(one.row.published)
    note = one.row.differs or one.row.unpublished or ("not verified" if one.row.unverified else "")
    if one.row.unverified and note != "not verified":
        note += "; not verified"
    return f"| {one.setting} | {published} | {_text(one.ours)} | {one.row.source} | {note} |"


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    sys.exit(main())
