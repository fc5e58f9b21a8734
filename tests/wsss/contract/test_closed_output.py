"""A program whose output nobody reads any more, in processes of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wsss.contract.closed_output import reader_is_gone

PROGRAM = """
import sys, time
from wsss.contract.closed_output import ReaderGoneError, drop_output, reader_is_gone
from wsss.pipeline.console import plain_console
assert not reader_is_gone()
console = plain_console(stderr={stderr})
try:
    for number in range(1000):
        console.print(f"line {{number}}")
        time.sleep(0.01)
except KeyboardInterrupt as stop:
    assert isinstance(stop, ReaderGoneError) and reader_is_gone()
    sys.exit(drop_output())
"""


@pytest.mark.parametrize("stderr", [True, False])
def test_the_work_stops_as_after_an_interrupt(stderr: bool) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT if stderr else subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM.format(stderr=stderr)], text=True, **pipes)  # type: ignore[call-overload]
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    said = "" if stderr else process.stderr.read()
    assert (process.wait(timeout=60), said) == (141, "")


def test_a_reader_that_is_there() -> None:
    assert not reader_is_gone()
