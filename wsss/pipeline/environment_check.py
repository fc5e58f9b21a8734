"""Whether the libraries of this machine can do what the settings ask, before any stage runs."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection

from wsss.contract.fit import Fit
from wsss.contract.stage import Instance
from wsss.contract.stopping import uninterrupted
from wsss.pipeline.recipe import RecipeError

_SOUND: set[str] = set()
"""Fingerprints of the instances that this process has checked."""


def check_environments(instances: Sequence[Instance]) -> None:
    """Fail before any stage runs, rather than after hours, if a later stage's network cannot be built.

    An instance is checked once in a process: before Ray is started, and again by what runs it.
    """
    _check_new([one for one in instances if one.fingerprint not in _SOUND])
    _SOUND.update(one.fingerprint for one in instances)


def _check_new(instances: Sequence[Instance]) -> None:
    """Raises: `RecipeError`.

    The networks of trainings are built in a process of its own, unless this one has imported torch already: a driver
    needs none of the libraries that are imported for it, which take 200 MB.
    """
    trainings = [one for one in instances if isinstance(one.stage, Fit)]
    if not trainings or "torch" in sys.modules:
        _raise(_refusal(instances))
        return
    _raise(_refusal([one for one in instances if not isinstance(one.stage, Fit)]))
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_check, args=(trainings, sender), daemon=True)
    with uninterrupted():
        process.start()
    sender.close()
    try:
        _raise(receiver.recv_bytes().decode())
    except EOFError:  # it ended without an answer: the same here, where its error is seen
        _raise(_refusal(trainings))
    finally:
        process.join()


def _check(instances: Sequence[Instance], sender: Connection) -> None:
    sender.send_bytes(_refusal(instances).encode())


def _refusal(instances: Sequence[Instance]) -> str:
    """The first error, empty if there is none."""
    for instance in instances:
        try:
            instance.stage.check_environment(instance)
        except ValueError as error:
            return f"{instance.name}.{error}"
    return ""


def _raise(refusal: str) -> None:
    if refusal:
        raise RecipeError(refusal)
