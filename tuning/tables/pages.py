"""The pages: marks around tables, the text between them, and Markdown tables outside of them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tuning.tables.declaration import DeclaredTable, OtherTable, TableError

_MARK = re.compile(r"<!-- (?:table: (?P<name>[A-Za-z0-9_-]+)|(?P<end>/table)) -->")
_RULE = re.compile(r"\|(?: *:?-+:? *\|)+")


def with_tables(page: str, text: str, blocks: Mapping[str, str], declared: Mapping[str, DeclaredTable]) -> str:
    """The page's text with each block between its marks. Raises `TableError` if marks and declarations differ."""
    here = {name for name, table in declared.items() if table.page == page}
    lines, written = list[str](), list[str]()
    inside = ""
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        mark = _MARK.fullmatch(line.strip())
        if mark is None:
            if not inside:
                lines.append(line)
            continue
        name = mark["name"] or ""
        if bool(name) == bool(inside):
            raise TableError(
                f"{page}, line {number}: {line.strip()} "
                + (f"inside table {inside}" if inside else "without a beginning")
            )
        if name:
            if name not in here or name in written:
                why = (
                    "is marked twice"
                    if name in written
                    else f"has no declaration for this page; there are {', '.join(sorted(here))}"
                )
                raise TableError(f"{page}, line {number}: table {name} {why}")
            written.append(name)
            lines += [line, blocks[name]]
        else:
            lines.append(line)
        inside = name
    if inside:
        raise TableError(f"{page}: table {inside} has no <!-- /table -->")
    if unmarked := sorted(here - set(written)):
        raise TableError(f"{page} has no <!-- table: {unmarked[0]} --> and <!-- /table -->, where its table is written")
    return "".join(lines)


def unmarked_tables(text: str) -> list[str]:
    """The headers of Markdown tables outside the marks and outside code, as `title | title`."""
    found, before, inside, code = list[str](), "", False, False
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("```"):
            code = not code
        elif mark := _MARK.fullmatch(stripped):
            inside = mark["end"] is None
        elif not inside and not code and _RULE.fullmatch(stripped):
            found.append(" | ".join(cell.strip() for cell in before.strip("|").split("|")))
        before = stripped
    return found


def check_other_tables(page: str, text: str, others: list[OtherTable]) -> None:
    """Raise `TableError` for a table outside the marks that is not listed, or a listed one that does not exist."""
    listed, found = [other.header for other in others if other.page == page], unmarked_tables(text)
    if strange := [header for header in found if header not in listed]:
        raise TableError(
            f"{page}: the table {strange[0]!r} is not written from run records; declare it in "
            "tuning/tables/declared/, or give the reason in tuning/tables/not_measured.toml"
        )
    if absent := [header for header in listed if header not in found]:
        raise TableError(f"not_measured.toml: {page} has no table {absent[0]!r}; remove it")
