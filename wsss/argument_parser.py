"""argparse with suggestions: for an unknown command or option, similar names are suggested."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose help keeps its line breaks and whose errors suggest what was meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]
        """As argparse does, but unknown arguments are reported by the subcommand that they were given to."""
        options, left = super().parse_known_args(args, namespace)
        if left:
            self.error(self._left_over(left[0]))
        return options, left

    def subparsers(self) -> dict[str, Parser]:
        """Name -> parser of each subcommand; empty if there are none."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return dict(action.choices)
        return {}

    def options(self) -> list[argparse.Action]:
        """The arguments of this command itself, except `--help`."""
        return [
            action
            for action in self._actions
            if not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
        ]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            raise argparse.ArgumentError(
                None if what == "command" else action, f"unknown {what} {value!r}{suggestion(value, action.choices)}"
            )

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Refuse an empty path (`Path("")` is the current folder, and a variable of the shell may not be set), and a
        file as the folder of runs."""
        if action.type is Path and not arg_string.strip():
            raise argparse.ArgumentError(action, "it is empty; name a file or folder (. is this folder)")
        if action.dest == "runs" and Path(arg_string).exists() and not Path(arg_string).is_dir():
            raise argparse.ArgumentError(action, f"{arg_string} is a file; name a folder of runs")
        return super()._get_value(action, arg_string)

    def _left_over(self, word: str) -> str:
        if not word.startswith("-"):
            return f"unexpected argument {word!r}"
        known = [option for action in self._actions for option in action.option_strings]
        option = word.partition("=")[0]
        if option == "--set" and "--runs" in known:
            return "it reads no recipe, so there is nothing to --set; --runs FOLDER names the folder of runs"
        return f"unknown option {option!r}{suggestion(option, known)}"

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 after printing the error and a line that refers to the help."""
        self.exit(2, f"{self.prog}: {message}\n{self.prog} --help lists what there is\n")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)


def suggestion(value: str, known: Iterable[str]) -> str:
    """`; did you mean …?` if there are similar names, else a list of all names."""
    names = [str(name) for name in known]
    if near := difflib.get_close_matches(str(value), names, n=3):
        return f"; did you mean {' or '.join(near)}?"
    return f"; there are {', '.join(names)}"
