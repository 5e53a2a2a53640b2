"""A folder that one process at a time works on keeps its promises, wherever it lies."""

import json

import pytest

from cptlaw.storage import claims
from cptlaw.storage.claims import Lost


def steps(text):
    return [json.loads(line)["step"] for line in text.splitlines()]


def test_one_owner_at_a_time_and_none_after_the_end(task):
    one, other = task(), task()
    assert not one.claimed() and not one.has_ended() and one.outcome() is None
    with one.claim() as mine:
        assert mine and other.claimed()
        with other.claim() as theirs:
            assert not theirs
        assert str(claims.me()["pid"]) in other.holder()
    assert not other.claimed()
    with other.claim() as mine:
        assert mine
        other.end(b"done")
        with one.claim() as theirs:
            assert not theirs
    for seen in (one, other, task()):
        assert seen.has_ended() and seen.outcome() == b"done" and not seen.claimed()
        with seen.claim() as mine:
            assert not mine
    one.reopen()
    assert not task().has_ended()
    with task().claim() as mine:
        assert mine


def test_it_may_be_claimed_often(task):
    for turn in range(12):
        with (one := task()).claim() as mine:
            assert mine
            one.append("rows", [{"step": 0, "turn": turn}])
    assert [json.loads(line)["turn"] for line in task().lines("rows").splitlines()] == list(range(12))


def test_who_does_not_work_on_it_may_end_it(task):
    task().end(b"cannot be trained")
    assert task().outcome() == b"cannot be trained"


def test_what_is_held_by_another_is_asked_for_seldom(in_bucket, monkeypatch):
    monkeypatch.setattr(claims, "SOON", 60.0)
    asked = []
    look = claims.Register._look
    monkeypatch.setattr(claims.Register, "_look", lambda self: (asked.append(1), look(self))[1])
    with in_bucket().claim():
        for _ in range(20):
            with in_bucket().claim() as mine:
                assert not mine
    assert len(asked) == 1


def test_rows_are_kept_in_order_over_claims(task):
    with (first := task()).claim():
        first.append("rows", [{"step": 0, "loss": 1.5}])
        first.append("rows", [{"step": 0, "loss": 2.5}, {"step": 0, "loss": 0.1}])
    with (second := task()).claim():
        second.append("rows", [{"step": 7}])
        assert steps(task().lines("rows")) == [0, 0, 0, 7]
    assert json.loads(task().lines("rows").splitlines()[2])["loss"] == 0.1
    task().append("attempts", [{"reason": "killed", "step": 0}])
    assert len(task().lines("attempts").splitlines()) == 1
    task().remove("attempts")
    assert task().lines("attempts") == b"" and len(task().lines("rows").splitlines()) == 4


def test_objects_are_whole_or_absent(task):
    assert task().read("run.json") is None
    task().write("run.json", b"1" * 100)
    task().write("run.json", b"22")
    assert task().read("run.json") == b"22"
    assert task().steps() == [] and not task().checkpoints.exists()


def test_logs_follow_the_work(task):
    with (first := task()).claim():
        (first.path / "metrics.jsonl").write_text("1\n2\n")
    with (second := task()).claim():
        assert (second.path / "metrics.jsonl").read_text() == "1\n2\n"


def save(task, step):
    """A checkpoint without arrays."""
    task.checkpoints.write(step, 0, {"pieces": []}, [b"x"])
    task.checkpoints.commit(step, 1, {"memory": []})


def test_a_process_that_was_paused_cannot_write_over_its_successor(in_bucket, stale):
    paused, successor = in_bucket(), in_bucket()
    with paused.claim() as mine:
        assert mine
        paused.append("rows", [{"step": 10, "by": "paused"}])
        save(paused, 10)
        paused.append("rows", [{"step": 20, "by": "paused"}])
        paused.checkpoints.write(20, 0, {"pieces": []}, [b"x"])  # paused before the commit
        stale()
        with successor.claim() as taken:
            assert taken
            assert successor.steps() == [10], "what was whole when the claim was taken over"
            assert steps(successor.lines("rows")) == [10], "what is after that is measured again"
            # The paused process comes back, and does not know yet.
            paused._bucket.put(f"{paused._name}/rows/g000001/000003.jsonl", b'{"step": 30, "by": "paused"}\n')
            paused._bucket.put(f"{paused._name}/checkpoints/0000000020-g000001/commit.json", b"{}")
            with pytest.raises(Lost):
                paused.checkpoints.delete([10])
            with pytest.raises(Lost):
                paused.checkpoints.commit(20, 1, {})
            with pytest.raises(Lost):
                paused.append("rows", [{"step": 40, "by": "paused"}])
            with pytest.raises(Lost):
                paused.end(b"paused")
            with pytest.raises(Lost):
                paused.drop_checkpoints()
            assert successor.steps() == [10]
            successor.append("rows", [{"step": 20, "by": "successor"}])
            save(successor, 20)
            rows = [json.loads(line) for line in in_bucket().lines("rows").splitlines()]
            assert [(row["step"], row["by"]) for row in rows] == [(10, "paused"), (20, "successor")]
            successor.end(b"successor")
    assert in_bucket().outcome() == b"successor" and in_bucket().steps() == [10, 20]
    left = in_bucket()._bucket.list("runs/one/checkpoints/")
    assert not any("20-g000001" in name for name in left), "what does not count is cleared away at the end"


def test_a_process_that_has_lost_its_claim_does_not_take_the_next_generation_for_its_own(in_bucket, stale):
    paused, successor = in_bucket(), in_bucket()
    with paused.claim():
        stale()
        with successor.claim():
            with pytest.raises(Lost):
                paused.checkpoints.delete([0]) or save(paused, 5)
            paused.checkpoints.write(5, 0, {"pieces": []}, [b"x"])
            assert not any("g000002" in name for name in paused._bucket.list("runs/one/checkpoints/"))
        assert not paused._register.owned


def test_a_claim_of_a_dead_process_of_this_machine_is_taken_over_at_once(in_bucket, monkeypatch):
    dead = in_bucket()
    assert dead._register.claim(cut=lambda state: 0)
    dead._register._let_go()  # its heartbeat ends with it
    assert in_bucket().claimed()
    if claims.me()["machine"]:
        monkeypatch.setattr(claims, "_began", lambda pid: "another process of that number")
        assert not in_bucket().claimed()
        with in_bucket().claim() as mine:
            assert mine


def test_a_claim_whose_heartbeat_stands_still_is_taken_over(in_bucket, monkeypatch):
    silent, now = in_bucket(), [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    assert silent._register.claim(cut=lambda state: 0)
    now[0] += claims.LEASE - 1
    assert in_bucket().claimed()
    silent._register.beat()
    now[0] += claims.LEASE - 1
    assert in_bucket().claimed(), "it has spoken"
    now[0] += 2
    assert not in_bucket().claimed()
    silent._register._let_go()


def test_a_checkpoint_that_a_successor_has_removed_is_no_damage(in_bucket, stale):
    paused, successor = in_bucket(), in_bucket()
    with paused.claim():
        for step in (1, 2, 3):
            save(paused, step)
        with pytest.raises(FileNotFoundError):
            paused.checkpoints.read(9, 0, [(0, 1)])
        stale()
        with successor.claim():
            successor.checkpoints.delete([1, 2])
            for ask in (lambda: paused.checkpoints.read(1, 0, [(0, 1)]), lambda: paused.checkpoints.facts(2)):
                with pytest.raises(Lost):
                    ask()
            assert successor.checkpoints.read(3, 0, [(0, 1)]) == [b"x"]


def test_the_newest_checkpoint_of_two_of_one_step_counts(in_bucket, stale):
    first, second = in_bucket(), in_bucket()
    with first.claim():
        save(first, 3)
        stale()
        with second.claim():
            save(second, 3)
            assert second.steps() == [3] and second.checkpoints.where(3).endswith("g000002")
            second.checkpoints.delete([3])
            assert second.steps() == [3] and second.checkpoints.where(3).endswith("g000001")
