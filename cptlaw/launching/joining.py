"""Who of a job's processes is there, before JAX waits for them: JAX aborts without saying who is missing."""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

from cptlaw.errors import UserError


def roll_call(address: str, processes: int, process: int, seconds: float) -> None:
    """Returns when all processes of the job have called; the first one listens at the coordinator's address.

    Args:
      address: HOST:PORT of the first process, where JAX's coordinator will listen afterwards.
      processes: how many there are.
      process: which of them this is, from 0.
      seconds: how long to wait for the others.

    Raises:
      UserError: naming who is missing, or who called twice; in every process that called.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator={address}: write HOST:PORT")
    if not 0 <= process < processes:
        raise UserError(f"--process={process}: with --processes={processes} they are 0 to {processes - 1}")
    deadline = time.monotonic() + seconds
    if process == 0:
        answer = _listen(int(port), processes, deadline)
    else:
        answer = _call(host.strip("[]"), int(port), process, deadline)
    if answer != "go":
        raise UserError(f"--coordinator={address}: {answer}")


def _listen(port: int, processes: int, deadline: float) -> str:
    """Collects the calls, and gives every caller the same answer."""
    missing = set(range(1, processes))
    with contextlib.ExitStack() as open_until_answered:
        try:
            server = open_until_answered.enter_context(socket.create_server(("", port), backlog=processes))
        except OSError as error:
            return f"port {port} cannot be listened at ({error.strerror}); give another"
        callers, answer = [], "go"
        while missing and answer == "go":
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                caller, _ = server.accept()
                open_until_answered.enter_context(caller)
                caller.settimeout(10)
                index = int(_line(caller) or -1)
            except TimeoutError:
                names = ", ".join(map(str, sorted(missing)))
                answer = f"of {processes} processes these did not come: {names}. Are they started, and do they see it?"
            except (OSError, ValueError):
                continue  # of no process of the job, such as a port scanner
            else:
                callers.append(caller)
                if index not in missing:
                    answer = f"two processes say that they are process {index}; give each --process of its own"
                missing.discard(index)
        for caller in callers:
            with contextlib.suppress(OSError):
                caller.sendall(f"{answer}\n".encode())
        for caller in callers:  # the callers hang up first, so that the port is free for JAX at once
            with contextlib.suppress(OSError):
                caller.recv(1)
    return answer


def _call(host: str, port: int, process: int, deadline: float) -> str:
    while True:
        left = deadline - time.monotonic()
        try:
            with socket.create_connection((host, port), timeout=max(0.1, left)) as line:
                line.sendall(f"{process}\n".encode())
                line.settimeout(max(0.1, left) + 10)  # its clock started earlier or later
                return _line(line) or "process 0 has hung up; see what it said"
        except OSError as error:
            if time.monotonic() >= deadline:
                return f"process 0 does not answer there ({error}). Is it started, and is the port open?"
            time.sleep(0.2)


def _line(connection: socket.socket) -> str:
    """One line of at most 1,000 bytes, without its end."""
    text = b""
    while not text.endswith(b"\n") and len(text) < 1000:
        part = connection.recv(1000)
        if not part:
            break
        text += part
    return text.decode(errors="replace").strip()


@contextlib.contextmanager
def ends_after(seconds: float) -> Iterator[None]:
    """Ends this process with 2 and a message when the block is not left in time; nothing else can, while JAX waits."""

    def end() -> None:
        print(
            f"launch: the job's other processes did not all join within {seconds:g} seconds (--join-seconds). Are all "
            "of them started, and do they see the first one's host?",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
