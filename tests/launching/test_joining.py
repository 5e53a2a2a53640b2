"""A job whose processes do not all come says who is missing."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cptlaw.errors import UserError
from cptlaw.launching.joining import roll_call

ROOT = Path(__file__).parents[2]


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def called(address, processes, indices, seconds=2.0):
    """What each process is told."""
    said = {}

    def one(place, index):
        try:
            said[place] = roll_call(address, processes, index, seconds)
        except UserError as error:
            said[place] = str(error)

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(indices)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def test_all_are_there_and_the_port_is_free_again(address):
    for _ in range(2):
        assert called(address, 3, [2, 0, 1], 30.0) == {0: None, 1: None, 2: None}
    host, port = address.split(":")
    with socket.create_server((host, int(port))):
        pass


def test_who_is_missing_is_said_to_all_that_came(address):
    said = called(address, 4, [0, 2], 0.5)
    assert len(set(said.values())) == 1 and "of 4 processes these did not come: 1, 3." in said[0]


def test_a_first_process_that_is_missing_is_named(address):
    assert "process 0 does not answer there" in called(address, 2, [1], 0.5)[0]


def test_an_index_that_is_given_twice_is_named(address):
    said = called(address, 3, [0, 1, 1], 30.0)
    assert all("two processes say that they are process 1" in text for text in said.values())


def test_others_at_the_port_are_not_counted(address):
    host, port = address.split(":")
    listening = threading.Thread(target=lambda: said.update(called(address, 2, [0], 3.0)))
    said = {}
    listening.start()
    while True:
        try:
            with socket.create_connection((host, int(port))) as scanner:
                scanner.sendall(b"GET / HTTP/1.1\n")
            break
        except OSError:
            pass
    listening.join()
    assert "these did not come: 1." in said[0]


@pytest.mark.parametrize("wrong", [("nowhere", 2, 0), ("localhost:x", 2, 0), ("localhost:1", 2, 2)])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(UserError, match=r"--coordinator=.*write HOST:PORT|--process=2"):
        roll_call(*wrong, 1.0)


def test_a_launcher_that_waits_in_vain_ends_with_a_message(address, tmp_path):
    words = [f"--coordinator={address}", "--processes=2", "--process=0", "--join-seconds=1", f"--workdir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", "launch.checks", *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "launch: --coordinator" in done.stderr and "these did not come: 1." in done.stderr


def test_where_nobody_can_be_asked_a_timer_ends_the_wait():
    program = "import time; from cptlaw.launching.joining import ends_after\nwith ends_after(0.2): time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 2 and "did not all join within 0.2 seconds" in done.stderr
