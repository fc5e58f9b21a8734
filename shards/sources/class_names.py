"""Reads class names from table cells and class lists, and refuses text that is not a class name.

A cell is used as a class name only if it is unambiguous. Text that may be a list, a flag, a missing value or a
misspelling is refused with an error that says what to write. A class list can confirm unusual names.
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import combinations
from pathlib import Path

from shards.sources.neighbours import beside

BACKGROUND_NAMES = frozenset({"background", "bg", "back ground"})
"""As returned by `plain`."""
_NO_VALUE = frozenset({"nan", "none", "null", "n/a", "#n/a", "<na>", "no label", "unlabeled", "unlabelled"})
_NEVER_IN_A_NAME = ";|\t\n\r"
_RARELY_IN_A_NAME = ",/&+"
_QUOTED = r"""(?:'[^'\\]*'|"[^"\\]*")"""
_LIST = re.compile(rf"[\[({{]\s*(?:{_QUOTED}\s*(?:,\s*{_QUOTED}\s*)*,?)?\s*[\])}}]")
_NUMBERED = re.compile(r"(\d{1,5})\s*[,;:\t]\s*(\S.*)")
_INVISIBLE = re.compile("[\u200b-\u200d\u2060\ufeff]")


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC), without surrounding whitespace and invisible characters."""
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", name)).strip()


def plain(name: str) -> str:
    """A name normalized for comparison: case folded; spaces, underscores and hyphens all become single spaces."""
    return re.sub(r"[\s_-]+", " ", composed(name).casefold()).strip()


def is_background(name: str) -> bool:
    """True for names of the background: background, _background_, BG."""
    return plain(name) in BACKGROUND_NAMES


def cell_names(cell: str, *, separator: str) -> tuple[str, ...]:
    """The class names in a cell; none if it is empty. A quoted list, ['cat', 'dog'], is read as a list.

    Raises ValueError for text that is not a class name.
    """
    text = composed(cell)
    if text[:1] in ("[", "{") or (text[:1] == "(" and text[-1:] == ")") or _LIST.fullmatch(text):
        if not _LIST.fullmatch(text):
            raise ValueError(
                f"{text[:80]!r} is in brackets; write the name without brackets, several names with {separator!r} "
                "between them"
            )
        names = [found[1:-1] for found in re.findall(_QUOTED, text)]
    else:
        names = text.split(separator)
    return tuple(_checked(name) for part in names if (name := composed(part)))


def _checked(name: str) -> str:
    if name[0] in "'\"" and name[-1] == name[0]:
        raise ValueError(f"the name {name[:80]} is in quotes; write it without quotes")
    if is_background(name) or plain(name) in _NO_VALUE:
        raise ValueError(
            f"{name!r} is not a class: leave the cell empty if an image shows none of the classes (background is "
            "everything that no class covers, value 0 of the masks)"
        )
    return name


def refuse_doubtful(names: Mapping[str, str], *, separator: str) -> None:
    """Raise ValueError if some names collected from tables are probably not class names.

    `names`: name -> file and line where it first occurs.
    """
    _refuse_flags(names)
    by_plain: dict[str, str] = {}
    for name in names:
        if (other := by_plain.setdefault(plain(name), name)) != name:
            raise ValueError(
                f"{names[name]}: the classes {other!r} ({names[other]}) and {name!r} differ only in case, spaces, "
                "underscores or hyphens; use one spelling for both, or list all classes in class_list"
            )
    if (several := _several_names(names)) is not None:
        name, found = several
        raise ValueError(
            f"{names[name]}: {name!r} seems to be several names separated by {found!r}, but label_separator is "
            f"{separator!r}; set label_separator = {found!r}, or, if it is one name, list all classes in class_list"
        )


def _refuse_flags(names: Mapping[str, str]) -> None:
    if names and set(names) <= {"0", "1", "0.0", "1.0", "True", "False", "true", "false"}:
        first = next(iter(names))
        raise ValueError(
            f"{names[first]}: the only labels are {' and '.join(sorted(names))}; write the names of the classes that "
            "an image shows, not a number for each class"
        )


def separator_in(name: str, names: Collection[str]) -> str | None:
    """The separator by which `name` splits into other `names`; None if there is none."""
    for found in _NEVER_IN_A_NAME + _RARELY_IN_A_NAME + " ":
        parts = _parts(name, found)
        if len(parts) > 1 and parts <= set(names):
            return found
    return None


def _several_names(names: Iterable[str]) -> tuple[str, str] | None:
    """A name that seems to be several names, and the separator between them; None if there is none.

    A name counts as several if its parts are names themselves, if the same parts also occur in another order, or, for
    separators other than a space, if one of its parts is a name itself or each of them also occurs in another name.
    """
    whole = set(names)
    for found in _NEVER_IN_A_NAME:
        if odd := sorted(name for name in whole if found in name):
            return odd[0], found
    for found in _RARELY_IN_A_NAME + " ":
        parts = {name: _parts(name, found) for name in sorted(whole)}
        met, sets = Counter(part for of in parts.values() for part in of), Counter(parts.values())
        for name, of in parts.items():
            related = found != " " and (bool(of & whole) or all(met[part] > 1 for part in of))
            if len(of) > 1 and (of <= whole or sets[of] > 1 or related):
                return name, found
    return None


def _parts(name: str, separator: str) -> frozenset[str]:
    return frozenset(part for one in name.split(separator) if (part := one.strip()))


def slips(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Pairs (rare, frequent) of similarly spelt names, the rare one in at most a tenth as many images."""
    found = []
    for one, other in combinations(sorted(counts), 2):
        rare, frequent = sorted((one, other), key=lambda name: counts[name])
        if counts[frequent] >= 10 * max(counts[rare], 1) or counts[rare] <= 1 < counts[frequent]:
            matcher = difflib.SequenceMatcher(None, plain(rare), plain(frequent))
            if matcher.quick_ratio() >= 0.8 and matcher.ratio() >= 0.8:
                found.append((rare, frequent))
    return found


def read_class_list(path: Path) -> tuple[str, ...]:
    """The names of a class list, in the order of the mask values 1, 2, ...

    The file has one name per line, optionally with its mask value before it ("1, cat"), or is a JSON list. A first
    entry `background` (value 0), also after `__ignore__`, is not a class. Raises ValueError, naming the file, if it
    cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"the list of classes does not exist: {path}{beside(path.parent, path.name)}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the list of classes is not UTF-8 text: {path}: {error}") from None
    try:
        names = _json_names(text) if text.lstrip().startswith("[") else [composed(line) for line in text.splitlines()]
        names = _without_background(_without_numbers([name for name in names if name]))
        _refuse_repeated(names)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return tuple(names)


def _json_names(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it begins with [ but is not a JSON list ({error}); write one name per line") from None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError("it is not a JSON list of names; write one name per line")
    return [composed(name) for name in found]


def _without_numbers(names: list[str]) -> list[str]:
    """The names without the mask values before them, if the list has these, and without its header line."""
    matches = [_NUMBERED.fullmatch(name) for name in names]
    if len(names) < 2 or not all(matches[1:]):
        return names
    numbered = [(int(match[1]), match[2].strip()) for match in matches if match]
    values = [value for value, _ in numbered]
    if values != list(range(values[0], values[0] + len(values))) or values[0] > 1:
        raise ValueError(f"the values before its names are {values[:5]}; they must count up from 0 (background) or 1")
    if values[0] == 0 and not is_background(numbered[0][1]):
        raise ValueError(f"value 0 is {numbered[0][1]!r}; in masks 0 is background, and classes start at 1")
    return [name for _, name in numbered]


def _without_background(names: list[str]) -> list[str]:
    kept = list(names)
    if len(kept) > 1 and plain(kept[0]) == "ignore" and kept[0].startswith("_") and is_background(kept[1]):
        del kept[0]
    if kept and is_background(kept[0]):
        del kept[0]
    if odd := [name for name in kept if is_background(name)]:
        raise ValueError(
            f"{odd[0]!r} is not a class: background is value 0 of the masks; remove it from the list, or make it the "
            "first line"
        )
    return kept


def _refuse_repeated(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"it lists {name!r} more than once")
        seen.add(name)
