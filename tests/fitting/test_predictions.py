"""What a fit predicts: for which run, with which parts, and what it will not say."""

import numpy as np
import pytest

from cptlaw import fitting
from cptlaw.errors import UserError


def test_a_prediction_says_what_it_is_of_and_where_its_width_comes_from(web):
    def ask(size, tokens=30e9, **options):
        return web.predict(params=size, tokens=tokens, **options)

    run, mean, law = ask(6e9), ask(6e9, target="mean"), ask(6e9, target="law")
    assert (run.target, mean.target, law.target) == ("run", "mean", "law")
    assert mean.high - mean.low < run.high - run.low
    assert sum(run.parts.values()) == pytest.approx(1) and {"law", "size", "tokens", "checkpoint"} <= set(run.parts)
    assert law.parts == {} and law.samples.shape == (60,) and run.samples.shape == (0,)
    assert law.point == web.law.predict(web.params, {"params": np.array(6e9), "tokens": np.array(30e9)})
    widths = [float(np.ptp(np.log([ask(n).low, ask(n).high]))) for n in (3e9, 6e9, 12e9, 24e9)]
    assert widths == sorted(widths) and widths[-1] > 1.5 * widths[0]
    known = ask(3e9, 120e9, run="r29"), ask(3e9, 120e9)
    assert known[0].high - known[0].low <= known[1].high - known[1].low
    far = ask([6e9, 90e9])
    assert np.isfinite(far.low).tolist() == [True, False] and np.isfinite(far.point).all()
    assert any("say nothing 30 times out" in note for note in far.notes) and not run.notes


def test_the_law_alone_is_one_step_away(web):
    alone = web.alone()
    found = alone.predict(params=6e9, tokens=30e9)
    assert found.target == "law" and (found.low, found.high) == tuple(
        getattr(web.predict(params=6e9, tokens=30e9, target="law"), end) for end in ("low", "high")
    )
    with pytest.raises(UserError, match="law alone"):
        alone.predict(params=6e9, tokens=30e9, target="mean")
    with pytest.raises(UserError, match="no run 'r99'"):
        web.predict(params=6e9, tokens=30e9, run="r99")
    with pytest.raises(UserError, match="mean, run, base, law"):
        web.predict(params=6e9, tokens=30e9, target="median")


def test_held_out_scores_hold_law_process_and_rivals_and_how_many_runs(web, code):
    for fit, runs in ((web, 6), (code, 5)):
        held = fit.scores["held_out"]
        assert held["runs"] == runs and held["process"]["mean_log"] < 0.01
        assert held["alike"] == [] or held["alike"][0].startswith("nearest_size = carry_tokens")


def test_bases_named_by_the_table_are_bases_of_the_process(chinchilla_table):
    named = chinchilla_table.assign(base=[f"seed{i % 2}" for i in range(30)])
    fit = fitting.fit(named, "chinchilla", bootstrap=0, starts=8, hold_out=np.zeros(30, bool))
    assert len(set(fit.process["web"].base)) == 10
    assert len(set(fitting.fit(chinchilla_table, "chinchilla", bootstrap=0, starts=8).process["web"].base)) == 5
