"""Docstrings as Markdown: an extension of griffe, which reads the code for the Python pages of the site."""

from __future__ import annotations

import inspect
import re
from typing import Any

import griffe

LABEL = re.compile(r"^(Source|Differs|Raises):", flags=re.MULTILINE)
LEGEND = re.compile(r"^\s*[-*] ")


class PlainDocstrings(griffe.Extension):
    """Replaces every docstring, which is written to be read in a terminal, by Markdown that looks the same."""

    def on_object(self, *, obj: griffe.Object, **_others: Any) -> None:
        if obj.docstring is not None and not obj.is_alias:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """`Source:`, `Differs:` and `Raises:` begin paragraphs, and lines of equations stay lines.

    >>> as_markdown("Sum.\\n\\na = b\\nb = c\\n\\nRaises: never.\\nSource: a book.")
    'Sum.\\n\\n```text\\na = b\\nb = c\\n```\\n\\n**Raises:** never.\\n\\n**Source:** a book.'
    """
    text = LABEL.sub(r"\n**\1:**", inspect.cleandoc(docstring))
    return "\n\n".join(_paragraph(part) for part in re.split(r"\n\s*\n", text))


def _paragraph(text: str) -> str:
    lines = text.strip("\n").splitlines()
    indented = all(line.startswith("    ") for line in lines)
    if indented or (all(" = " in line for line in lines) and not LEGEND.match(text)):
        return "\n".join(["```text", *(line.removeprefix("    ") if indented else line for line in lines), "```"])
    return text.strip("\n")
