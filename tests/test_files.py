"""`_files`: a set of files is replaced as one, and only what killed runs left is removed."""

import errno
import os
import pathlib
import signal
import stat
import subprocess
import sys

import pytest

from cs231n_optax._files import locked, remove_unfinished, replacing, replacing_together, writing

# Waits in the middle of writing a set until it is killed.
WRITING = """
import pathlib, sys, time
from cs231n_optax import _files
folder = pathlib.Path(sys.argv[1])
with _files.replacing_together(folder, ["a.csv", "b.json"]) as new:
    (new / "a.csv").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def write_set(folder, texts):
    with replacing_together(folder, ["a.csv", "b.json"]) as new:
        for name, text in texts.items():
            (new / name).write_text(text)


def test_a_set_replaces_the_older_one_and_nothing_else(tmp_path):
    (tmp_path / "mine").write_text("")
    write_set(tmp_path, {"a.csv": "1", "b.json": "1"})
    write_set(tmp_path, {"a.csv": "2"})
    assert contents(tmp_path) == {"a.csv": "2", "mine": ""}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_set_that_fails_leaves_the_older_one(error, tmp_path):
    write_set(tmp_path, {"a.csv": "1", "b.json": "1"})

    def fail():
        with replacing_together(tmp_path, ["a.csv", "b.json"]) as new:
            (new / "a.csv").write_text("2")
            raise error

    with pytest.raises(error):
        fail()
    assert contents(tmp_path) == {"a.csv": "1", "b.json": "1"}


def test_the_mode_of_a_replaced_file_stays(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    path.chmod(0o600)
    with replacing(path, "w") as file:
        file.write("new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_new_file_has_the_usual_mode(tmp_path):
    with replacing(tmp_path / "a.csv", "wb") as file:
        file.write(b"new")
    (tmp_path / "usual").touch()
    assert (tmp_path / "a.csv").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no full disk")
def test_a_full_disk_names_the_file():
    path = pathlib.Path("/dev/full")
    message = "No space left on device: '/dev/full'"
    with pytest.raises(OSError, match=message), writing(path, "w") as file:
        file.write("x")


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    def full():
        with replacing_together(tmp_path, ["a.csv"]) as new, writing(new / "a.csv", "w"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as raised:
        full()
    assert raised.value.filename == str(tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError) as raised, replacing(tmp_path / "no" / "a", "w"):
        pass
    assert raised.value.filename == str(tmp_path / "no" / "a")


def test_only_what_a_killed_process_left_is_removed(tmp_path):
    looks_alike = [".a.csv.tmp", ".a.csv.12.tmp", ".a.csv.abcdefgh.tmp", ".b.csv.cs231n_optax.tmp"]
    for name in looks_alike:
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", WRITING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        (temporary,) = {path.name for path in tmp_path.iterdir()} - set(looks_alike)
        remove_unfinished(tmp_path, r"a\.csv")
        assert (tmp_path / temporary).exists()  # its process is alive
        process.send_signal(signal.SIGKILL)
        process.wait()
        remove_unfinished(tmp_path, r"b\.json")
        assert (tmp_path / temporary).exists()  # of another set
        remove_unfinished(tmp_path, r"a\.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(looks_alike)


def test_a_lock_is_held_once(tmp_path):
    with locked(tmp_path) as is_locked:
        assert is_locked
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass
