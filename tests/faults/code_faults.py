"""Nodes that differ: other code, another clock; and a record that ends its process every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.faults.bench import CAMS, LIMIT, TRAINING, Bench, Work
from tests.hosts.host import Host
from tests.hosts.runs import differences
from tests.hosts.work import frozen_actor, rank_past_checkpoint

SKEW_SECONDS = 3600
_SKEW = f"import time; (lambda t, n: (setattr(time, 'time', lambda: t() + {SKEW_SECONDS}), \
setattr(time, 'time_ns', lambda: n() + {SKEW_SECONDS} * 10**9)))(time.time, time.time_ns)"
_POISON = """
import os
import sys
import importlib.abc, importlib.machinery

class Finder(importlib.abc.MetaPathFinder):
    # Wraps `note` of shards.work_notes as soon as it is imported: a process that works on the record ends.
    def find_spec(self, name, path, target=None):
        if name != "shards.work_notes":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            noted = module.note
            def note(**work):
                noted(**work)
                if "{key}" in work.get("sample", "").split(", "):
                    os._exit(13)
            module.note = note
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


@contextmanager
def start_code(hosts: list[Host], name: str, text: str) -> Iterator[None]:
    """Every Python process that starts on these hosts inside the block runs this module first.

    Idle processes that Ray has started in advance are ended before and afterwards: they would escape it, or keep it.
    """
    folder = "$(python -c 'import sysconfig; print(sysconfig.get_paths()[\"purelib\"])')"
    for host in hosts:
        (host.home / f"{name}.py").write_text(text)
        host.run(f"d={folder}; cp ~/{name}.py $d/ && echo 'import {name}' > $d/{name}.pth")
    _end_idle(hosts)
    try:
        yield
    finally:
        for host in hosts:
            host.run(f"d={folder}; rm -f $d/{name}.py $d/{name}.pth")
        _end_idle(hosts)


def _end_idle(hosts: list[Host]) -> None:
    for host in hosts:
        for process in host.find("ray::IDLE"):
            with suppress(ProcessLookupError):
                host.kill(process)


def clock_skew(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """The clock of a host is an hour ahead (of its Python processes): the same bytes, in a layer and in a training."""
    with start_code(bench.hosts[-1:], "fault_clock", _SKEW):
        ahead = bench.hosts[-1].run("python -c 'import time; print(time.time())'")
        assert float(ahead) > float(bench.hosts[0].run("python -c 'import time; print(time.time())'")) + 3000
        layer = bench.start("clock_skew_layer", CAMS, *overrides, program=program)
        actor, _ = frozen_actor(bench.hosts, layer.runs, CAMS, layer.job)
        actor.resume()
        layer.note_done()
        layer.ends_like_the_reference()
        work = bench.start("clock_skew", TRAINING, *overrides, program=program)
        rank, _, _ = rank_past_checkpoint(bench.hosts, work.runs, work.job)
        rank.resume()
        work.note_done()
        work.ends_like_the_reference()
    return work


def other_code_on_a_worker(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """The package of the workers makes other maps than the head's: refused, with both sides named, before a wrong shard
    is kept. It is that of all workers, since two actors may be on one."""
    files = [host.home / "wsss" / "wsss" / "ops" / "cam.py" for host in bench.hosts]
    before = files[0].read_text()
    changed = before.replace("return maps.relu()", "return maps.relu() ** 2")
    assert changed != before, "the change has no effect"
    for file in files:
        file.write_text(changed)
    try:
        work = bench.start("other_code_on_a_worker", CAMS, *overrides, program=program)
        work.note_done()
        status = work.job.wait(timeout=LIMIT)
    finally:
        for file in files:
            file.write_text(before)
    log = work.job.logs()
    assert status == "FAILED", f"{status}: {differences(work.runs.folder, bench.reference.wait(), kinds=[CAMS])}"
    assert any(host.name in log for host in bench.hosts) and "head" in log and "source digest" in log, log[-3000:]
    work.submit_again()
    work.ends_like_the_reference()
    return work


def poison_sample(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """A record ends its process every time: it is set aside and counted, and all other shards are the same."""
    key, shard = bench.first_record(CAMS, nth_shard=5)
    with start_code(bench.hosts, "fault_poison", _POISON.replace("{key}", key)):
        work = bench.start("poison_sample", CAMS, "runtime.max_missing=0.5", *overrides, program=program)
        work.note_done()
        log = work.job.succeeds(timeout=LIMIT)
    assert key in log, log[-3000:]
    wrong = differences(work.runs.folder, bench.reference.wait(), kinds=[CAMS])
    others = [line for line in wrong if f"/{shard}." not in line and "index.json" not in line]
    assert not others, "; ".join(others)
    assert wrong, "the record was not set aside"
    return work
