"""Shell completion: `wsss completion SHELL` prints a script, which calls `wsss __complete SHELL ...` at every Tab.

All candidates come from the parser: subcommands, options, choices, and, according to the metavar of an argument,
recipes, instances, dotted settings and files. Nothing slow is imported: stages are, torch is not.
"""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from wsss.argument_parser import Parser
from wsss.arguments import parser
from wsss.stages.registry import STAGES

_SCRIPTS = {
    "bash": """\
_wsss() {
    local IFS=$'\\n'
    COMPREPLY=($("${COMP_WORDS[0]}" __complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
}
complete -F _wsss wsss
""",
    "zsh": """\
_wsss() {
    local line
    local -a whole part
    for line in "${(@f)$("${words[1]}" __complete zsh "${(@)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)}"; do
        [[ -z $line ]] && continue
        if [[ $line == *[=./] ]]; then part+=("$line"); else whole+=("$line"); fi
    done
    (( $#whole )) && compadd -- "${whole[@]}"
    (( $#part )) && compadd -S '' -- "${part[@]}"
}
compdef _wsss wsss
""",
    "fish": """\
function __wsss_complete
    set -l words (commandline -opc)
    command $words[1] __complete fish $words[2..-1] (commandline -ct) 2>/dev/null
end
complete -c wsss -f -a '(__wsss_complete)'
""",
}


_SPECIAL, _ESCAPED = re.compile(r"([^\w=:./,@%+~-])"), r"\\\1"
"""Special characters of bash, and their escaped form."""


def script(shell: str) -> str:
    """The script that makes a shell complete `wsss`."""
    return _SCRIPTS[shell]


def answer(arguments: Sequence[str]) -> str:
    """What `wsss __complete SHELL ...` prints: a candidate per line.

    bash gives the line up to the cursor and its word breaks; the others give the words, the last one unfinished.
    """
    shell, *words = arguments
    if shell != "bash":
        return "".join(f"{word}\n" for word in candidates(words))
    line, breaks = words
    *before, last = _split(line)
    # bash replaces only the text after the last word break.
    start = max((last.rfind(char) + 1 for char in "=:" if char in breaks), default=0)
    return "".join(f"{_SPECIAL.sub(_ESCAPED, word[start:])}\n" for word in candidates([*before, last]))


def candidates(words: Sequence[str]) -> list[str]:
    """Candidates for the last word, given the words before it (without `wsss` itself)."""
    *before, prefix = words
    command = parser()
    while before and before[0] in command.subparsers():
        command = command.subparsers()[before.pop(0)]
    return sorted({word for word in _possible(command, before, prefix) if word.startswith(prefix)})


def _possible(command: Parser, before: Sequence[str], prefix: str) -> Iterator[str]:
    """All candidates; not yet filtered by `prefix`, except for files."""
    if command.subparsers():
        yield from command.subparsers()
    waiting, positional, given = _read(command, before)
    option, equals, value = prefix.partition("=")
    if waiting is not None:
        yield from _values(waiting, prefix, given)
    elif equals and (action := _by_option(command).get(option)) is not None:
        yield from (f"{option}={word}" for word in _values(action, value, given))
    elif prefix.startswith("-"):
        for action in command.options():
            if action.dest not in given or isinstance(action, argparse._AppendAction):
                yield from action.option_strings
        yield "--help"
    elif positional is not None:
        yield from _values(positional, prefix, given)


def _by_option(command: Parser) -> dict[str, argparse.Action]:
    return {option: action for action in command.options() for option in action.option_strings}


def _read(
    command: Parser, words: Sequence[str]
) -> tuple[argparse.Action | None, argparse.Action | None, dict[str, str]]:
    """The option that waits for its value, the positional argument that is next, and dest -> what was given."""
    by_option = _by_option(command)
    positionals = [action for action in command.options() if not action.option_strings]
    waiting: argparse.Action | None = None
    given: dict[str, str] = {}
    for word in words:
        if waiting is not None:
            given[waiting.dest], waiting = word, None
        elif word in by_option:
            action = by_option[word]
            given[action.dest] = word
            waiting = action if action.nargs != 0 else None
        elif not word.startswith("-") and positionals:
            given[positionals[0].dest] = word
            if positionals[0].nargs != "+":
                positionals.pop(0)
    return waiting, positionals[0] if positionals else None, given


def _values(action: argparse.Action, prefix: str, given: Mapping[str, str]) -> Iterator[str]:
    if action.choices is not None:
        yield from map(str, action.choices)
        return
    metavar = str(action.metavar)
    if metavar in _BY_METAVAR:
        yield from _BY_METAVAR[metavar](prefix, given)


def _recipes(prefix: str, given: Mapping[str, str]) -> Iterator[str]:
    from wsss.pipeline.recipe_files import RECIPES

    yield from (path.stem for path in RECIPES.glob("*.toml"))
    yield from _files(prefix, ".toml")


def _recipes_and_stages(prefix: str, given: Mapping[str, str]) -> Iterator[str]:
    yield from STAGES
    yield from ("recipe", "runtime")
    yield from _recipes(prefix, given)


def _sweeps(prefix: str, given: Mapping[str, str]) -> Iterator[str]:
    from wsss.pipeline.recipe_files import SWEEPS

    yield from (path.stem for path in SWEEPS.glob("*.toml"))
    yield from _files(prefix, ".toml")


def _gpus(prefix: str, given: Mapping[str, str]) -> Iterator[str]:
    from wsss.plan.costs import load_costs

    yield from load_costs().gpus


def _instances(prefix: str, given: Mapping[str, str]) -> Iterator[str]:
    yield from _kinds(given)


def _kinds(given: Mapping[str, str]) -> dict[str, str]:
    """Instance -> kind, for the recipe on the command line, even if the recipe is incomplete."""
    from wsss.pipeline.recipe_files import RECIPES, find_file

    name = given.get("recipe") or ("toy" if "sweep" not in given else "")
    try:
        tables = tomllib.loads(find_file(Path(name), shipped=RECIPES).read_text())
        return {name: str(table.get("kind", name)) for name, table in tables["stages"].items()}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def _settings(prefix: str, given: Mapping[str, str]) -> Iterator[str]:
    """`INSTANCE.` first, then its settings, then the values of a setting with a short list of them."""
    kinds = _kinds(given)
    group, dot, rest = prefix.partition(".")
    if not dot:
        yield from (f"{name}." for name in ("recipe", "runtime", *kinds))
        return
    from wsss.report.setting_tables import settings_of

    if (cls := _settings_class(group, kinds)) is None:
        return
    infos = settings_of(cls)
    if group == "runtime":
        del infos["stages"]
        yield from _resources(rest, kinds)
    name, equals, _ = rest.partition("=")
    if not equals:
        yield from (f"{group}.{name}=" for name in infos)
    elif name in infos:
        yield from (
            f"{group}.{name}={str(choice).lower() if isinstance(choice, bool) else choice}"
            for choice in infos[name].choices
        )


def _resources(rest: str, kinds: Mapping[str, str]) -> Iterator[str]:
    """`runtime.KIND.` and `runtime.INSTANCE.`, then the resources that these stages have."""
    from wsss.contract.fit import Fit
    from wsss.contract.resources import StageResources

    name, dot, _ = rest.partition(".")
    if not dot:
        yield from (f"runtime.{one}." for one in dict.fromkeys([*kinds, *kinds.values()]))
    elif (stage := STAGES.get(kinds.get(name, name))) is not None:
        own = StageResources.of_ranks if issubclass(stage, Fit) else StageResources.of_actors
        yield from (f"runtime.{name}.{setting}=" for setting in own)


def _settings_class(group: str, kinds: Mapping[str, str]) -> type | None:
    if group in ("recipe", "runtime"):
        from wsss.pipeline.recipe import RecipeSettings, RuntimeSettings

        return RecipeSettings if group == "recipe" else RuntimeSettings
    return STAGES.get(kinds.get(group, ""))


def _files(prefix: str, ending: str = "") -> Iterator[str]:
    """Folders, and files with an extension, that complete a partial path."""
    folder, slash, _ = prefix.rpartition("/")
    place = Path(folder + slash).expanduser() if folder + slash else Path()
    try:
        entries = sorted(place.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") and not prefix.rpartition("/")[2].startswith("."):
            continue
        if entry.is_dir():
            yield f"{folder}{slash}{entry.name}/"
        elif entry.name.endswith(ending):
            yield f"{folder}{slash}{entry.name}"


def _any_file(prefix: str, given: Mapping[str, str]) -> Iterator[str]:
    yield from _files(prefix)


def _places(prefix: str, given: Mapping[str, str]) -> Iterator[str]:
    yield from ("ray", "local", "auto")


_BY_METAVAR: dict[str, Callable[[str, Mapping[str, str]], Iterator[str]]] = {
    "RECIPE": _recipes,
    "RECIPE|STAGE": _recipes_and_stages,
    "SWEEP": _sweeps,
    "INSTANCE": _instances,
    "NAME=VALUE": _settings,
    "PLACE": _places,
    "GPU": _gpus,
    "PATH": _any_file,
    "FOLDER": _any_file,
    "FILE": _any_file,
    "MODEL": _any_file,
    "IN": _any_file,
    "LABELS": _any_file,
    "OUT": _any_file,
}


def _split(line: str) -> list[str]:
    """The words after the command of an unfinished line; the last one is being typed."""
    for closing in ("", '"', "'"):
        try:
            words = shlex.split(line + closing)
            break
        except ValueError:
            continue
    else:
        words = line.split()
    if not line or (line[-1].isspace() and not closing):
        words.append("")
    return words[1:] or [""]
