"""The training loop, one page from top to bottom: for one run (`train`) and for several (`together.train_all`)."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, Protocol, TypedDict, TypeVar, Unpack

import jax
import numpy as np

from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.schedules import Schedule, dynamics
from cptlaw.training.checkpoints import Checkpoints
from cptlaw.training.guard import Diverged, Guard, OnStep, Spike, agree
from cptlaw.training.metrics import Clock, Metrics, Point
from cptlaw.training.step import Optimizer, State, Sums, default_microbatches, make_start, make_step

_ADAMW = Optimizer()

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"


class Batches(Protocol):
    """Batches as a pure function of the step; `rows` are those of the global batch that this process feeds."""

    @property
    def batch_size(self) -> int: ...

    def batch(self, step: int, rows: slice | np.ndarray) -> Mapping[str, np.ndarray]: ...


class Sequences(Batches, Protocol):
    """Batches of sequences of tokens."""

    @property
    def seq_len(self) -> int: ...


B = TypeVar("B", bound=Batches, covariant=True)


@dataclasses.dataclass(frozen=True)
class Member(Generic[B]):
    """One of the runs that a program trains.

    Attributes:
      init: gives the state to start from, if there is no checkpoint; see `start.first_state`. It is donated.
      checkpoints: restored from first; saved to when due, at the steps it keeps, when stopped, and at the end. They do
        not depend on whether the run is trained alone or together with others, so it may change between the two.
    """

    schedule: Schedule
    batches: B
    init: Callable[[], State]
    checkpoints: Checkpoints | None = None

    def start(self, abstract: State) -> State:
        """The state of the newest checkpoint, or that of `init`."""
        restored = self.checkpoints.restore(abstract) if self.checkpoints else None
        return restored[1] if restored else self.init()


@dataclasses.dataclass(frozen=True)
class Result:
    """How training ended: `status` is finished, stopped (resumable) or failed, with the reason.

    `params` are those at `point`; a failed run has none.
    """

    status: str
    point: Point
    params: transformer.Params
    reason: str = ""


class Options(TypedDict, total=False):
    """When runs are logged, evaluated, saved and stopped: arguments of `run` that `train` and `train_all` pass on."""

    eval_steps: Collection[int]
    log_every: int
    spike: Spike | None
    should_stop: Callable[[], bool]
    on_step: OnStep


class Program(Protocol):
    """The compiled step of one run or of several, and the state that it turns into the next."""

    mesh: jax.sharding.Mesh

    def start(self) -> tuple[int, Any]:
        """The number of steps that are done, and the state after them."""

    def advance(self, step: int, until: int, state: Any) -> tuple[int, Any, Sums]:
        """Goes on from `step` steps, to `until` steps at most: how many are done then, the state after them, and what
        the last of them measured. Donates the state before."""

    def state_of(self, state: Any, run: int) -> State:
        """The state of one of the runs."""

    def params_of(self, state: Any, run: int) -> transformer.Params:
        """The parameters of one of the runs."""


Evaluate = Callable[[Mapping[int, Point], Any], Mapping[int, str]]
PointOf = Callable[[int], Point]


def train(
    cfg: transformer.Config,
    schedule: Schedule,
    batches: Sequences,
    init: Callable[[], State],
    *,
    optimizer: Optimizer = _ADAMW,
    layout: Layout | None = None,
    microbatches: int | None = None,
    checkpoints: Checkpoints | None = None,
    evaluate: Callable[[Point, transformer.Params], Any] = lambda point, params: None,
    log: Callable[[Metrics], Any] = lambda metrics: None,
    **options: Unpack[Options],
) -> Result:
    """Trains one run up to step `schedule.steps`, or what is left until there.

    Args:
      init, checkpoints: see `Member`.
      microbatches: parts to take a batch in; None, see `default_microbatches`.
      evaluate, log, options: see `run`.
    """
    member = Member(schedule, batches, init, checkpoints)
    layout = layout or Layout(make_mesh())
    parts = microbatches or default_microbatches(cfg, layout, batches.batch_size, batches.seq_len)
    update, abstract = make_step(cfg, optimizer, layout, parts), make_start(cfg, optimizer, layout)[1]
    program = Alone(member, layout, update, abstract)
    (result,) = run(
        [member],
        program,
        [token_points(cfg, schedule, batches)],
        evaluate=one_by_one(lambda _, point, params: evaluate(point, params), program),
        log=lambda _, metrics: log(metrics),
        **options,
    )
    return result


def run(
    members: Sequence[Member],
    program: Program,
    at: Sequence[PointOf],
    *,
    eval_steps: Collection[int] = (),
    evaluate: Evaluate,
    log_every: int = 10,
    log: Callable[[int, Metrics], Any],
    spike: Spike | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: OnStep = lambda step, state: None,
) -> list[Result]:
    """Trains what is left of the members, which have schedules of the same number of steps; a result for each.

    A run that diverges, or whose evaluation is no number, fails alone: it is measured and saved no more.

    Args:
      at: of every member, the `Point` after any number of steps (`points`).
      eval_steps: numbers of updates after which `evaluate` is called; 0 is before the first. An evaluation comes
        before the checkpoint of its step, so a crash may repeat it, with the same result, but never skip it.
      evaluate: called with where each run is that has not failed, by its index, and the state of all. Gives the
        reasons of those to fail, by index. With `Optimizer.ema` it is called again, the average in the place of the
        parameters.
      log_every: steps between calls of `log`, which come one step late: the host never waits for the device.
      log: called with the index of the run and its metrics, whose speed is that of all runs together.
      spike: which losses end a run; None, only those that are no number. The last checkpoint is then a sound one.
      should_stop: asked after every step, or where a program takes several at once, when they are done; see
        `on_sigterm`. No program goes beyond a step that is logged, evaluated or kept.
      on_step: called as often, before the step, with its number and the state before it, which is that of all runs.
    """
    steps = members[0].schedule.steps
    looked_at = sorted({*eval_steps, *(s for m in members if m.checkpoints for s in m.checkpoints.keep), steps})
    watch = _Watch(members, at, program.mesh, log_every, log, spike)
    step, state = program.start()
    watch.start(step)
    if step == 0 and 0 in eval_steps:
        watch.measure(0, state, evaluate)
    late: tuple[int, Sums] | None = None
    stop = False
    while step < steps and watch.alive() and not stop:
        on_step(step + 1, state)
        until = min((step // log_every + 1) * log_every, *(s for s in looked_at if s > step), steps)
        with jax.transfer_guard("disallow"):  # a transfer must be asked for by name
            step, state, sums = program.advance(step, until, state)
        if late:
            watch.report(*late)
        logs, last = step % log_every == 0, step == steps
        late = (step, sums) if logs else None
        keep = {i for i, m in enumerate(members) if m.checkpoints and (last or step in m.checkpoints.keep)}
        # All are saved when one of them is due, so that they have a step in common to go on from together.
        stop, due = agree(should_stop(), watch.due(), together=logs)
        if last or keep or stop or due or step in eval_steps:
            # Nothing is evaluated, kept or returned before its step is known to be sound.
            watch.report(step, sums)
            late = None
        with watch.clock.paused():
            if step in eval_steps:
                watch.measure(step, state, evaluate)
            for i in watch.alive():
                checkpoints = members[i].checkpoints
                # A run whose loss is high is not saved until its loss is sound again.
                if checkpoints is not None and (i in keep or ((stop or due) and watch.sound(i))):
                    checkpoints.save(step, program.state_of(state, i), watch.guards[i].memory() if spike else ())
    ended = (STOPPED, "asked to stop") if step < steps else (FINISHED, "")
    return [
        watch.failed.get(i) or Result(ended[0], watch.at[i](step), program.params_of(state, i), ended[1])
        for i in range(len(members))
    ]


class _Watch:
    """What the host knows of runs in training: where they are, how fast, whose losses are sound, and who has failed."""

    def __init__(
        self,
        members: Sequence[Member],
        at: Sequence[PointOf],
        mesh: jax.sharding.Mesh,
        log_every: int,
        log: Callable[[int, Metrics], Any],
        spike: Spike | None,
    ):
        self.members, self.log_every, self.log = members, log_every, log
        self.at = at
        self.guards = [Guard(spike) for _ in members]
        self.failed: dict[int, Result] = {}
        step = self.at[0](1)
        device = mesh.devices.flat[0].device_kind
        self.clock = Clock(step.tokens * len(members), step.flops / step.tokens, device, mesh.size)

    def start(self, step: int) -> None:
        """Goes on from `step`, with what the checkpoints of the members remember."""
        self.clock.start(step)
        for member, guard in zip(self.members, self.guards):
            guard.recall(member.checkpoints.memory if member.checkpoints else ())

    def alive(self) -> list[int]:
        return [i for i in range(len(self.members)) if i not in self.failed]

    def sound(self, i: int) -> bool:
        return self.guards[i].sound

    def due(self) -> bool:
        """Whether the time to save a sound run has come."""
        saved = [self.members[i].checkpoints for i in self.alive() if self.sound(i)]
        return any(checkpoints.due(among=len(self.members)) for checkpoints in saved if checkpoints)

    def report(self, step: int, sums: Sums) -> None:
        """Waits for what the step measured, logs it if it is time, and fails the runs that have diverged."""
        with jax.transfer_guard("disallow"):
            fetched = jax.device_get((sums.nats, sums.tokens, sums.grad_norm))
        speed = self.clock.arrived(step)
        for i in self.alive():
            nats, tokens, grad_norm = (float(np.reshape(values, -1)[i]) for values in fetched)
            metrics = Metrics(self.at[i](step), nats, tokens, grad_norm, speed)
            logged = step % self.log_every == 0 or step == self.members[i].schedule.steps
            if logged:
                self.log(i, metrics)
            try:
                self.guards[i].check(metrics, counts=logged)
            except Diverged as diverged:
                self.failed[i] = Result(FAILED, diverged.point, {}, str(diverged))

    def measure(self, step: int, state: State, evaluate: Evaluate) -> None:
        """Evaluates every run, and fails those whose loss is no number; then, if there is one, the average of each."""
        self._measure({i: self.at[i](step) for i in self.alive()}, state, evaluate)
        if state.average is not None:
            points = {i: dataclasses.replace(self.at[i](step), averaged=True) for i in self.alive()}
            self._measure(points, dataclasses.replace(state, params=state.average), evaluate)

    def _measure(self, points: Mapping[int, Point], state: State, evaluate: Evaluate) -> None:
        for i, reason in evaluate(points, state).items():
            self.failed[i] = Result(FAILED, points[i], {}, reason)


def one_by_one(evaluate: Callable[[int, Point, transformer.Params], Any], program: Program) -> Evaluate:
    """Evaluates each run with its own parameters; FloatingPointError fails it."""

    def all_runs(points: Mapping[int, Point], state: Any) -> dict[int, str]:
        failed = {}
        for i, point in points.items():
            try:
                evaluate(i, point, program.params_of(state, i))
            except FloatingPointError as error:
                failed[i] = str(error)
        return failed

    return all_runs


class Alone:
    """The program of one run, over the devices of its layout.

    Attributes:
      update: the compiled step (state, batch, learning rate) -> (state, sums), which donates the state.
      abstract: the state's shapes and shardings.
    """

    def __init__(
        self, member: Member, layout: Layout, update: Callable[[State, Any, Any], tuple[State, Sums]], abstract: State
    ):
        self.member, self.layout, self.mesh, self.update, self.abstract = member, layout, layout.mesh, update, abstract
        self.size = member.batches.batch_size
        self.rows = layout.rows(self.size)
        self.learning_rates = member.schedule.learning_rates().astype(np.float32)

    def start(self) -> tuple[int, State]:
        state = self.member.start(self.abstract)
        return int(state.step), state

    def advance(self, step: int, until: int, state: State) -> tuple[int, State, Sums]:
        batch = self.layout.put(self.member.batches.batch(step, self.rows), self.size)
        return step + 1, *self.update(state, batch, self.layout.replicate(self.learning_rates[step]))

    def state_of(self, state: State, run: int) -> State:
        return state

    def params_of(self, state: State, run: int) -> transformer.Params:
        return state.params


def token_points(cfg: transformer.Config, schedule: Schedule, batches: Sequences) -> PointOf:
    """The `Point` of a language model's run after any number of steps."""
    tokens = batches.batch_size * batches.seq_len
    return points(schedule, tokens, tokens * transformer.flops_per_token(cfg, batches.seq_len)["training"])


def points(schedule: Schedule, tokens: int, flops: float) -> PointOf:
    """The `Point` of a run after any number of steps, each of so many tokens (or pixels) and FLOPs."""
    learning_rates = schedule.learning_rates()
    lr_sum, lr_anneal = dynamics(learning_rates, before=schedule.start if schedule.warmup else None)

    def at(step: int) -> Point:
        if step == 0:
            return Point(0, 0, 0.0, 0.0, 0.0, 0.0)
        lr, s1, s2 = (float(array[step - 1]) for array in (learning_rates, lr_sum, lr_anneal))
        return Point(step, step * tokens, lr, s1, s2, step * flops)

    return at
