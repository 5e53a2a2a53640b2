"""Verdicts on fits are counted as documented and said in words with their numbers."""

import pytest

from cptlaw.fitting import verdicts
from cptlaw.fitting.verdicts import Check, LackOfFit, Tried

SETTINGS = Check("settings", 0.004, 9.0, (12.0, 6.0), 0.0034, 0.014)
CURVES, SHARE = Check("curves", 0.5, 1.0, (30.0, 10.0), 0.001, 0.0), Check("along w_code", 0.3, 7.0)
REJECTED = LackOfFit((SETTINGS, CURVES, SHARE), 3, 6, 2.5)


def test_tests_of_a_kind_share_half_of_the_level():
    assert REJECTED.adjusted(SETTINGS) == pytest.approx(0.004 * 2 * 2)
    assert REJECTED.adjusted(SHARE) == pytest.approx(0.3 * 2)
    assert REJECTED.p == pytest.approx(0.016) and REJECTED.rejected
    assert LackOfFit((SHARE,), 0, 0, 2.5).p == pytest.approx(0.3)
    assert LackOfFit((), 0, 0, 2.5, ("why",)).p == 1.0


def test_a_rejection_says_what_seeds_differ_by_and_what_the_law_misses_by():
    said = verdicts.rejection("dcpt", {"code": REJECTED, "web": LackOfFit((SHARE,), 0, 0, 2.0)})
    assert said.startswith("REJECTED: the table rejects the law dcpt: of code, ") and "web" not in said
    assert "differ by 0.0085 nats (0.34%)" in said and "misses settings by 0.035 nats (1.40%)" in said
    assert "3 settings repeated by 6 runs" in said and "curve" not in said
    assert verdicts.rejection("dcpt", {"web": LackOfFit((SHARE,), 0, 0, 2.0)}) == ""
    assert LackOfFit((SHARE,), 0, 0, 2.0, ("why",)).words() == "no test rejects it (p 0.3); why"
    alike = LackOfFit((Check("along w_code", 1e-5, 4.0), Check("along tokens", 1e-4, 0.01, miss=0.01)), 0, 0, 2.0)
    assert "along w_code its misses keep their sign, in 4 stretches" in alike.words()
    assert "along tokens the runs bend away from the law together, by 1.00%" in alike.words()


def test_remedies_that_help_come_first_and_those_that_change_nothing_are_not_recommended():
    helps = Tried("code", "without the share 0 of code", "--where 'w_code > 0'", (0.03, 0.01), (0.02, 0.01), 20, 5)
    same = Tried("code", "another law", "--law dcpt:free_sign=true", (0.03, 0.03), (0.02, 0.02), 20, 5)
    worse = Tried("code", "another law", "--law additive", (0.03, 0.02), (0.02, 0.025), 20, 5)
    late = Tried("code", "late checkpoints only", "--where 'tokens > 1e9'", why="no time")
    assert helps.helps and not same.changes and not same.helps and worse.changes and not worse.helps
    assert not late.helps and not late.changes
    head, *lines = verdicts.remedies([late, same, helps, worse])
    assert head == "What helps, tried on held-out rows beyond those fitted, up to 20 of 5 runs:"
    assert lines[0].endswith(
        "(--where 'w_code > 0'): the law errs by 1.00% instead of 3.00%, corrected by 1.00% instead of 2.00%"
    )
    assert any(line.endswith("changes nothing") for line in lines) and any(line.endswith("no better") for line in lines)
    assert any("not tried: no time" in line for line in lines)
    assert verdicts.remedies([same])[0].startswith("Nothing that was tried helps") and verdicts.remedies([]) == []


def test_the_headline_is_the_win_or_loss_against_the_best_rule():
    held = {"what": "late", "n": 6, "runs": 2, "law": {"mean_log": 0.02}, "mean": {"mean_log": 0.3},
            "ridge": {"mean_log": 0.015}, "beaten_by": ["ridge"]}  # fmt: skip
    assert verdicts.standing(held) == {"law": 0.02, "process": None, "best": "ridge", "rival": 0.015, "wins": False}
    assert verdicts.headline(held) == (
        "Held out (late, 6 rows of 2 runs): the law errs by 2.00%, the best rule without a law, ridge, by 1.50%: the "
        "prediction loses to it."
    )
    corrected = held | {"process": {"mean_log": 0.01}}
    assert verdicts.standing(corrected)["wins"] and "corrected by how it missed 1.00%" in verdicts.headline(corrected)
    assert verdicts.standing({"what": "too short", "n": 0}) == {}
    assert verdicts.headline({"what": "too short", "n": 0}).startswith("No row could be held out (too short)")
