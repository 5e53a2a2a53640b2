"""Who works on something, until it has ended: one object in a bucket, changed by compare-and-swap alone.

The object (a `State`) names the holder, counts its heartbeats, and holds the outcome once there is one. Every claim
has a generation of its own, the fencing token: what a process writes lies under its generation, and what counts of an
earlier generation was settled in the swap that ended it (`State.cuts`). So a process that was paused, lost its claim
and comes back can write, but nothing of it is ever read; and it cannot end the work, because the outcome is in the
object that it can no longer swap.

A claim that was not given back is taken over when its holder is seen to be dead (a process of this machine that is
gone), or when its heartbeat has stood still for `LEASE` seconds by the observer's own clock: clocks are never compared.
"""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cptlaw import records
from cptlaw.storage.bucket import Bucket, Conflict, StorageError

LEASE = float(os.environ.get("CPTLAW_LEASE_SECONDS", "60"))

SOON = LEASE / 12  # seconds for which an answer about the claims of others will do

_FIELDS: dict[str, records.Kinds] = {"generation": int, "beat": int, "cuts": dict, "holder": dict, "outcome": str}


class Lost(Exception):
    """The claim is another process's by now: what this one still writes counts no more."""


@dataclasses.dataclass(frozen=True)
class State:
    """What the object says.

    Attributes:
      generation: of the last claim, from 1; 0 before the first.
      cuts: earlier generation -> the step up to which what it wrote counts.
      holder: who claims it (`me`); empty when nobody does.
      beat: counts the swaps of a generation.
      outcome: how it ended; empty until then.
    """

    generation: int = 0
    cuts: dict[int, int] = dataclasses.field(default_factory=dict)
    holder: dict[str, Any] = dataclasses.field(default_factory=dict)
    beat: int = 0
    outcome: str = ""

    def counts(self, generation: int, step: int) -> bool:
        """Whether what a generation wrote of a step counts."""
        return generation == self.generation or step <= self.cuts.get(generation, -1)

    def to_bytes(self) -> bytes:
        cuts = {str(generation): step for generation, step in self.cuts.items()}
        # A swap compares contents where the server's versions are hashes of them, so no two may be equal.
        fields = {**dataclasses.asdict(self), "cuts": cuts, "nonce": uuid.uuid4().hex}
        return json.dumps(records.sealed(fields)).encode()

    @staticmethod
    def of(data: bytes, where: str) -> "State":
        fields = records.loads(data, where, _FIELDS, "delete the folder of the run, and it is trained again")
        cuts = {int(generation): step for generation, step in fields["cuts"].items()}
        return State(fields["generation"], cuts, fields["holder"], fields["beat"], fields["outcome"])


class Register:
    """The object `name` of a bucket, as this process sees it and, while it holds the claim, changes it."""

    def __init__(self, bucket: Bucket, name: str):
        self._bucket, self._name = bucket, name
        self._where = f"{bucket.url}/{name}"
        self._mine: State | None = None
        self._version: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stop: threading.Event | None = None  # of the heartbeat
        self.lost = False

    @property
    def owned(self) -> bool:
        """Whether this process holds the claim, as far as it knows."""
        return self._stop is not None

    def read(self, within: float = 0.0) -> State:
        """The state, perhaps as it was up to `within` seconds ago.

        From `claim` or `follow` until `release` it is that of this claim, also when the claim was lost meanwhile: a
        process must never take the generation of its successor for its own.
        """
        if self._mine is not None:
            return self._mine
        with _SEEN_LOCK:
            seen = _SEEN.get(self._where)
        if seen is None or time.monotonic() - seen.read > within:
            seen = self._look()
        return seen.state

    def held(self) -> bool:
        """Whether a process that may be alive holds the claim."""
        seen = self._look()
        return bool(seen.state.holder) and not seen.stale()

    def claim(self, cut: Callable[[State], int]) -> bool:
        """Claims it, if nobody holds it and it has not ended.

        `cut` gives the step up to which what the generation before wrote counts: that of its newest checkpoint.
        """
        with _SEEN_LOCK:
            known = _SEEN.get(self._where)
        if known is not None and known.taken() and time.monotonic() - known.read < SOON:
            return False  # many ask, again and again: an answer that is a few seconds old will do
        seen = self._look()
        state = seen.state
        if seen.taken():
            return False
        cuts = {**state.cuts, state.generation: cut(state)} if state.generation else {}
        mine = State(state.generation + 1, cuts, me())
        if not self._swapped(seen, mine):
            return False
        self._mine, self.lost, self._stop = mine, False, threading.Event()
        threading.Thread(target=self._beat_on, args=(self._stop,), daemon=True).start()
        return True

    def follow(self) -> None:
        """Takes part in the claim of another process, as it is now."""
        self._mine = self._look().state

    def beat(self) -> None:
        """Says that the holder is alive. Raises Lost when it is no longer the holder."""
        self._change(lambda state: dataclasses.replace(state, beat=state.beat + 1))

    def end(self, outcome: str) -> None:
        """Ends the work of this claim. Raises Lost when it is no longer this process's."""
        self._change(lambda state: dataclasses.replace(state, holder={}, outcome=outcome))
        self._let_go()

    def release(self) -> None:
        """Gives the claim back, if it is still this process's."""
        # A bucket that does not answer need not hear of it: the claim ends with its heartbeat.
        with contextlib.suppress(Lost, StorageError):
            self._change(lambda state: dataclasses.replace(state, holder={}))
        self._let_go()
        self._mine, self.lost = None, False

    def reopen(self) -> None:
        """Forgets the outcome."""
        seen = self._look()
        if seen.state.outcome:
            self._swapped(seen, dataclasses.replace(seen.state, outcome="", beat=seen.state.beat + 1))

    def _let_go(self) -> None:
        if self._stop is not None:
            self._stop.set()
            self._stop = None

    def _beat_on(self, stop: threading.Event) -> None:
        while not stop.wait(LEASE / 4):
            try:
                self.beat()
            except Lost:
                return
            except StorageError:
                continue  # it may answer again before another process takes over, and decides then

    def _change(self, change: Callable[[State], State]) -> None:
        with self._lock:
            if self._mine is None or not self.owned:
                raise Lost(self._where)
            new = change(self._mine)
            try:
                self._version = self._bucket.replace(self._name, new.to_bytes(), self._version)
            except Conflict:
                self.lost = True
                self._let_go()
                raise Lost(self._where) from None
            self._mine = new
            _saw(self._where, self._version, new)

    def _look(self) -> "_Seen":
        found = self._bucket.get_versioned(self._name)
        state = State() if found is None else State.of(found[0], self._where)
        return _saw(self._where, {} if found is None else found[1], state)

    def _swapped(self, seen: "_Seen", new: State) -> bool:
        """Whether the state that was seen is now the new one."""
        try:
            if seen.version:
                self._version = self._bucket.replace(self._name, new.to_bytes(), seen.version)
            else:
                self._version = self._bucket.create(self._name, new.to_bytes())
        except Conflict:
            return False
        _saw(self._where, self._version, new)
        return True


@dataclasses.dataclass
class _Seen:
    """A state as this process saw it: since when it has been the same, and when it was last read, by its own clock."""

    version: dict[str, str]
    state: State
    since: float
    read: float

    def taken(self) -> bool:
        """Whether it has ended, or is held by a process that may be alive."""
        return bool(self.state.outcome or (self.state.holder and not self.stale()))

    def stale(self) -> bool:
        """Whether its holder is dead, as far as this process can know."""
        return _gone(self.state.holder) or time.monotonic() - self.since > LEASE


_SEEN: dict[str, _Seen] = {}
_SEEN_LOCK = threading.Lock()


def _saw(where: str, version: dict[str, str], state: State) -> _Seen:
    now = time.monotonic()
    with _SEEN_LOCK:
        seen = _SEEN.get(where)
        if seen is None or seen.version != version:
            seen = _SEEN[where] = _Seen(version, state, now, now)
        seen.read = now
        return seen


def me() -> dict[str, Any]:
    """This process: its host and number, and what tells both from others of the same name."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine(), "began": _began(os.getpid())}


def _gone(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is no more. Of other machines nobody knows."""
    if holder.get("host") != socket.gethostname() or not holder.get("machine") or holder["machine"] != _machine():
        return False
    return _began(holder["pid"]) != holder["began"]


def _machine() -> str:
    """The boot and the process namespace, in which a process number means one process; "" where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return ""


def _began(pid: int) -> str:
    """When a process began, in ticks since the boot; "" for one that is no more, or only waits for its parent."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
