"""The rules that ruff checks: the tree follows them, and the configuration reports violations."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.architecture.sources import ROOT

DOCSTRING = '"""What this module is for."""\n'
REFUSED = {
    "a parameter without a type": ("ANN001", "def f(a) -> None: ...\n"),
    "starred parameters without a type": ("ANN002", "def f(*a) -> None: ...\n"),
    "named parameters without a type": ("ANN003", "def f(**a) -> None: ...\n"),
    "a public function without a type of its result": ("ANN201", "def f(a: int): return a\n"),
    "a private function without one": ("ANN202", "def _f(a: int): return a\n"),
    "a method inside a function without one": (
        "ANN202",
        "def f() -> None:\n    class A:\n        def g(self): return 1\n",
    ),
    "a special method without one": ("ANN204", "class A:\n    def __len__(self): return 1\n"),
    "a static method without one": ("ANN205", "class A:\n    @staticmethod\n    def f(): return 1\n"),
    "a class method without one": ("ANN206", "class A:\n    @classmethod\n    def f(cls): return 1\n"),
    "pickle": ("TID251", "import pickle\n"),
    "pickle inside a function": ("TID251", "def f() -> None:\n    from pickle import dumps\n"),
    "dill": ("TID251", "import dill\n"),
    "cloudpickle": ("TID251", "import cloudpickle\n"),
    "joblib": ("TID251", "from joblib import dump\n"),
    "shelve": ("TID251", "import shelve\n"),
    "marshal": ("TID251", "import marshal\n"),
    "torch.load": ("TID251", "import torch\nx = torch.load('a')\n"),
    "torch.save": ("TID251", "from torch import save\n"),
    "numpy.save": ("TID251", "import numpy as np\nnp.save('a', 1)\n"),
    "pandas.read_pickle": ("TID251", "import pandas as pd\nx = pd.read_pickle('a')\n"),
    "an unpickler under another name": ("S301", "from pandas import read_pickle as r\nx = r('a')\n"),
    "subprocess with a shell": ("S602", "import subprocess\nsubprocess.run('ls', shell=True)\n"),
    "any call with a shell": ("S604", "def f(run: object) -> None:\n    run('ls', shell=True)\n"),
    "os.system": ("S605", "import os\nos.system('ls')\n"),
    "os.popen": ("S605", "from os import popen\npopen('ls')\n"),
    "subprocess.getoutput": ("S605", "import subprocess\nx = subprocess.getoutput('ls')\n"),
    "asyncio with a shell": ("TID251", "import asyncio\nx = asyncio.create_subprocess_shell('ls')\n"),
}


def ruff(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ruff", *arguments]
    return subprocess.run(command, input=code, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def refusals(code: str, *, path: str = "wsss/example.py") -> set[str]:
    """Rules that report a file with this text at this path."""
    found = json.loads(ruff("check", "--output-format=json", f"--stdin-filename={path}", "-", code=code).stdout)
    return {str(fault["code"]) for fault in found}


def test_the_tree_keeps_the_rules() -> None:
    done = ruff("check", "--output-format=concise", ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tree_is_formatted() -> None:
    done = ruff("format", "--check", ".")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_must_be_refused(case: str) -> None:
    rule, code = REFUSED[case]
    assert rule in refusals(DOCSTRING + code)


@pytest.mark.parametrize(("path", "rule"), [("wsss/example.py", "D100"), ("wsss/new/__init__.py", "D104")])
def test_every_module_says_what_it_is_for(path: str, rule: str) -> None:
    assert refusals("x = 1\n", path=path) == {rule}
    assert refusals('""" """\nx = 1\n', path=path) >= {"D419"}
    assert refusals(DOCSTRING + "x = 1\n", path=path) == set()


def test_no_folder_is_left_out() -> None:
    for folder in ("shards", "wsss", "cluster", "tuning"):
        assert refusals("import pickle\n", path=f"{folder}/example.py") >= {"TID251", "D100"}
