import dataclasses

import numpy as np
import pytest
import scipy.stats

from cptlaw import cli
from cptlaw.errors import UserError
from cptlaw.fitting import intervals
from cptlaw.planning import decision as d
from cptlaw.planning.budget import budget
from cptlaw.planning.decision import Decision
from cptlaw.planning.lack_of_fit import with_lack_of_fit
from cptlaw.planning.mixture import mixture
from cptlaw.planning.tradeoff import trade_off

HELD = {"what": "the largest size", "n": 10, "law": {"rms_log": 0.02}, "beaten_by": [], "steps": {"params": np.log(4)}}
FAR, NEAR = {"params": 3.2e6, "tokens": 1e6}, {"params": 8e5, "tokens": 1e6}


@pytest.fixture
def scored(general, code):
    scores = {"fit": {"rms_log": 1e-3}, "held_out": HELD}
    return [dataclasses.replace(fit, scores=scores) for fit in (general, code)]


def test_resamples_miss_by_the_term_of_the_prediction(scored):
    sure = dataclasses.replace(
        scored[0], samples={n: np.full(4000, v) for n, v in scored[0].params.items()}
    )  # nothing else moves
    for x in (NEAR, FAR):
        found = np.log(d.losses(with_lack_of_fit(sure), {**x, "ratio": 0.5})[:, 0])
        scale = intervals.lack_of_fit(sure.scores, sure.ranges, {k: np.array(v) for k, v in x.items()})
        t = (found[1:] - found[0]) / scale
        reach = scipy.stats.t.ppf(0.95, intervals.MISFIT_DF)
        assert np.quantile(t, [0.05, 0.95]) == pytest.approx([-reach, reach], rel=0.15)


def test_a_decision_far_out_is_less_sure_and_the_point_the_same(scored):
    plain, wider = trade_off(*scored, **FAR, base_loss=3.2), trade_off(
        *map(with_lack_of_fit, scored), **FAR, base_loss=3.2
    )  # fmt: skip
    assert wider.point == plain.point
    assert np.ptp(wider.interval["share"]) > 2 * np.ptp(plain.interval["share"])
    assert np.ptp([wider.losses["code"][end] for end in ("low", "high")]) > 0.05
    assert wider.influence[0]["run"] == plain.influence[0]["run"]


def test_size_and_mixture_can_be_asked_too(scored):
    wide = [with_lack_of_fit(fit) for fit in scored]
    assert budget(wide[1], flops=4e12, share=0.5).point["params"] == pytest.approx(
        budget(scored[1], flops=4e12, share=0.5).point["params"], rel=0.01
    )
    plain, wider = mixture(*scored, **FAR), mixture(*wide, **FAR)
    assert wider.point == pytest.approx(plain.point, abs=1e-3)
    assert wider.regret["mean"] >= 0 and wider.losses["code"]["high"] > plain.losses["code"]["high"]


def test_the_command_and_a_fit_without_a_score(scored, code, tmp_path, capsys):
    for fit in scored:
        fit.save(tmp_path / f"{fit.eval}.json")
    files = ["--general", str(tmp_path / "general.json"), "--domain", str(tmp_path / "code.json")]
    words = ["plan", "trade-off", *files, "--params", "3.2e6", "--tokens", "1e6", "--base-loss", "3.2"]
    assert cli.main([*words, "--lack-of-fit", "--out", str(tmp_path / "d.json")]) == 0
    assert Decision.load(tmp_path / "d.json").inputs["lack_of_fit"] is True
    code.save(tmp_path / "code.json")
    assert cli.main([*words, "--lack-of-fit"]) == 2
    assert "no lack-of-fit term" in capsys.readouterr().err
    with pytest.raises(UserError, match="held-out score"):
        with_lack_of_fit(code)
