from __future__ import annotations

import tomllib

from tuning.toml_text import toml_lines


def test_what_is_written_is_read_back() -> None:
    table = {
        "text": 'a "quoted" \\ line\nand another, é',
        "numbers": [1, 2.5, 1e-05],
        "nested": {"inner": {"x": [True, "b"]}, "empty": {}},
        "odd name": False,
    }
    assert tomllib.loads("\n".join(toml_lines(table))) == table
