from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cluster.tracking import mlflow_folder
from cluster.tracking.mlflow_folder import (
    ServerState,
    back_up,
    back_up_after_run,
    database,
    read_state,
    restore,
    write_state,
)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerState:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".wsss" / "mlflow").mkdir(parents=True)
    (tmp_path / "shared").mkdir()
    return ServerState("http://127.0.0.1:5000", str(tmp_path / "shared"), 1)


def write(*rows: str) -> None:
    with closing(sqlite3.connect(database())) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS runs (name TEXT)")
        connection.executemany("INSERT INTO runs VALUES (?)", [(row,) for row in rows])


def rows(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM runs ORDER BY name")]


def test_a_new_head_starts_from_the_copy(state: ServerState) -> None:
    write("a", "b")
    assert back_up(state)
    database().unlink()
    assert restore(state)
    assert rows(database()) == ["a", "b"]
    assert not restore(state), "a database that is there is kept"


def test_copied_only_after_a_change(state: ServerState) -> None:
    assert not back_up(state), "there is none yet"
    write("a")
    assert back_up(state) and not back_up(state)
    write("b")
    assert back_up(state)
    assert rows(state.copy) == ["a", "b"]
    state.copy.unlink()
    assert back_up(state), "the copy was removed"


def test_copied_while_a_transaction_is_open(state: ServerState) -> None:
    write("a")
    with closing(sqlite3.connect(database())) as connection:
        connection.execute("INSERT INTO runs VALUES ('half')")
        assert back_up(state)
        connection.rollback()
    assert rows(state.copy) == ["a"]


@pytest.mark.parametrize("damage", [b"", b"not a database", None])
def test_damaged_copy_is_refused_and_kept(damage: bytes | None, state: ServerState) -> None:
    write(*(f"run {number}" for number in range(2000)))
    back_up(state)
    database().unlink()
    whole = state.copy.read_bytes()
    state.copy.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    kept = state.copy.read_bytes()
    with pytest.raises(ValueError, match=r"mlflow\.db is damaged .* move it away to start without records"):
        restore(state)
    assert state.copy.read_bytes() == kept and not database().exists()


def test_end_of_a_run_copies_if_this_machine_has_the_server(state: ServerState, tmp_path: Path) -> None:
    printed: list[str] = []
    write("a")
    back_up_after_run(state.address, say=printed.append)
    assert not state.copy.exists(), "no server is noted"
    write_state(state)
    assert read_state() == state
    back_up_after_run("http://127.0.0.1:6000", say=printed.append)
    assert not state.copy.exists(), "another server"
    back_up_after_run(f"{state.address}/", say=printed.append)
    assert rows(state.copy) == ["a"] and not printed
    write("b")
    state.copy.unlink()
    (tmp_path / "shared").rmdir()
    (tmp_path / "shared").write_text("")
    back_up_after_run(state.address, say=printed.append)
    assert len(printed) == 1 and "was not renewed" in printed[0]


def test_folder_is_this_users(state: ServerState, tmp_path: Path) -> None:
    assert mlflow_folder.own_folder() == tmp_path / "home" / ".wsss" / "mlflow"
