"""Docstrings as the Python pages show them."""

from __future__ import annotations

import pytest

pytest.importorskip("griffe", reason="NOT RUN: the site's packages are not installed; `make docs` installs them")

from docs.docstrings import as_markdown
from wsss.ops.random_walk import random_walk


def test_labels_begin_paragraphs_and_equations_keep_their_lines() -> None:
    written = """Sum of a.

    a = b
    b = c

    a [K, h]; text = more
    and more.
    Raises: ValueError.
    Source: a paper.
    Differs: as published.
    """
    assert as_markdown(written).split("\n\n") == [
        "Sum of a.",
        "```text\na = b\nb = c\n```",
        "a [K, h]; text = more\nand more.",
        "**Raises:** ValueError.",
        "**Source:** a paper.",
        "**Differs:** as published.",
    ]


def test_drawings_keep_their_lines() -> None:
    assert as_markdown("Files.\n\n    <layer>/a.tar   first\n    <layer>/b.tar   second\n\nEnd.") == (
        "Files.\n\n```text\n<layer>/a.tar   first\n<layer>/b.tar   second\n```\n\nEnd."
    )


def test_a_real_docstring_keeps_its_words() -> None:
    written = random_walk.__doc__ or ""
    shown = as_markdown(written)
    assert "**Source:** Ahn et al., CVPR 2019 (IRNet), eq. 4 and 14" in shown
    plain = [word for word in shown.replace("**", "").split() if word not in ("```text", "```")]
    assert plain == written.split()
