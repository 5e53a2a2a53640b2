"""The perplexity study: its parts on made-up runs, and (slow) the whole of it on a tiny model."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from cptlaw import cli, fitting, laws
from cptlaw.configs import perplexity, perplexity_small
from cptlaw.fields import ConfigError
from cptlaw.planning.best_subset import best_subset
from cptlaw.selection import choose, landscape
from cptlaw.selection.pool import Pool
from cptlaw.studies import selection_found, selection_plan, selection_study
from cptlaw.studies import selection_page as page

CHUNK = 32
TRUTH = {"E": 1.8, "D_c": 0.9, "a0": 0.5, "a1": -0.2, "b0": 0.1, "b1": -0.05, "aD": 0.2}
RULES = (selection_found.CHOICE, selection_found.LAW, *selection_found.CONTROLS)


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"document": np.arange(4000), "chunk": 0, "tokens": CHUNK, "bytes": 90})
    return Pool.of(rows.assign(nats=CHUNK * rng.lognormal(1.3, 0.2, 4000)), CHUNK, by="chunk")


@pytest.fixture(scope="module")
def cells(pool):
    levels = (0.15, 0.5, 0.85)
    return selection_plan.layout(pool.region(0.2), selection_plan.Plan(mean_levels=levels, spread_levels=levels))


def losses(moments, seeds, gap=0.0):
    """A runs table from the law, with noise between seeds; the domain loss of every rule but `choice` is higher."""
    rng = np.random.default_rng(0)
    lines = []
    for rule, (mean, std) in moments.items():
        for seed in seeds:
            for tokens in (1e5, 2e5, 4e5):
                x = {"ppl_mean": mean, "ppl_std": std, "tokens": tokens}
                for name in ("code", "prose"):
                    loss = laws.get("perplexity").predict(TRUTH, x) + 0.001 * rng.normal()
                    loss += gap * (name == "code" and rule != "choice")
                    lines.append(
                        {"run": f"{rule}-{seed}", "subset": rule, "seed": seed, "eval": name, "loss": loss, **x}
                    )
    return pd.DataFrame(lines)


@pytest.fixture(scope="module")
def found(pool, cells):
    table = losses(cells, (0, 1))
    confirmed = losses(dict.fromkeys(RULES, pool.moments()), (5, 6, 7), gap=0.05)
    candidates = [laws.get(name, unit="log-perplexity") for name in selection_study.LAWS[::3]]
    rows = table[table["eval"] == "code"]
    fit = fitting.fit(rows, candidates[0], "code", bootstrap=10, starts=8)
    ranking = fitting.compare(rows, candidates, "code", fold="subset", bootstrap=50, starts=8)
    region = pool.region(0.2)
    reachable = selection_plan.inside(region, cells).tolist()
    decision = best_subset(fit, tokens=4e5, random=pool.moments(), reachable=reachable)
    return selection_found.Found(
        part="code", size="small", base_seed=0, domain="code",
        pool=pool, test=pool, fraction=0.2, region=region, cells=cells, table=table,
        confirmed=confirmed, values=dict.fromkeys(RULES, pool.first[:300]),
        fits=dict.fromkeys(("code", "prose"), fit), rankings=dict.fromkeys(("code", "prose"), ranking),
        decision=decision, of_law=decision, winner=fit, gaps=selection_found.gaps(confirmed), again=None,
    )  # fmt: skip


def test_every_cell_can_be_drawn(pool, cells):
    assert len(cells) == 9
    for mean, std in cells.values():
        np.testing.assert_allclose(
            pool.moments(choose.select(pool, fraction=0.2, target=(mean, std))), (mean, std), rtol=2e-3
        )


def test_recommendations_stay_between_the_cells(pool, cells):
    pairs = selection_plan.inside(pool.region(0.2), cells)
    corners = np.array(list(cells.values()))
    assert len(pairs) > 100
    assert (pairs >= corners.min(axis=0)).all() and (pairs <= corners.max(axis=0)).all()


def test_the_law_that_made_the_runs_wins_when_a_subset_is_left_out(found):
    ranking = found.rankings["code"].table
    assert ranking["name"].iloc[0] == "perplexity"
    assert len(found.rankings["code"].folds) == 9


def test_gaps_are_paired_by_seed():
    confirmed = losses(dict.fromkeys(RULES, (4.0, 1.0)), (1, 2, 3))
    # Whatever all runs of a seed have in common says nothing of the rules.
    shifted = confirmed.assign(loss=confirmed["loss"] + confirmed["seed"])
    before, after = (selection_found.gaps(table) for table in (confirmed, shifted))
    np.testing.assert_allclose(before[["gain", "low", "high"]], after[["gain", "low", "high"]], atol=1e-9)
    assert len(before) == 2 * 2 * 4 and (before["seeds"] == 3).all()
    mine = confirmed[(confirmed["eval"] == "code") & (confirmed["tokens"] == 4e5)].groupby("subset")["loss"].mean()
    first = before.iloc[0]
    assert (first["eval"], first["chosen"], first["rule"]) == ("code", "choice", "random")
    assert first["gain"] == pytest.approx(mine["random"] - mine["choice"])
    assert first["low"] < first["gain"] < first["high"]


def test_the_verdict_says_what_the_seeds_can_tell_and_what_they_cannot(found):
    assert "perplexity's choice is better than random, low, mid, high text" in selection_found.verdict(found)
    assert "the law's own choice is better" not in selection_found.verdict(found)
    assert page.headline(found).startswith("The choice of code text is better than random text, by 0.")
    worse = dataclasses.replace(found, gaps=found.gaps.assign(gain=-0.02, low=-0.03, high=-0.01))
    assert page.headline(worse) == "The choice of code text is worse than random text, by 0.020 nats"
    even = dataclasses.replace(found, gaps=found.gaps.assign(gain=0.0, low=-0.1, high=0.1))
    assert page.headline(even) == "The choice of code text is not told from random text"
    assert "the law's own choice is not told from random, low, mid, high text" in selection_found.verdict(even)
    assert "choice less random  -0.0" in found.text() and "held-out code text: mean" in found.text()


def test_the_page_shows_verdict_moments_and_nulls(found, tmp_path):
    x = found.pool.first
    examples = pd.DataFrame({"end": ["low"], "x": [1.0], "duplicate": [0.5], "text": ["<b>licence</b>"]})
    path = page.write(
        tmp_path / "page.html", found, title="tiny", summary=landscape.summary(x), examples=examples, verdict="VERDICT"
    )
    text = path.read_text()
    for words in ("VERDICT", "perplexity_tokens_only", "held-out code text", "&lt;b&gt;licence&lt;/b&gt;"):
        assert words in text
    figures = sorted(p.name for p in (tmp_path / "page_figures").iterdir())
    assert figures == [f"{name}.{kind}" for name in ("fared", "landscape", "plane") for kind in ("csv", "png", "svg")]


def test_the_shipped_configs_are_whole():
    study, plan = selection_plan.parse(perplexity_small.get_config())
    assert study.domains == ("code", "biomedical") and plan.unit == "log-perplexity"
    assert plan.share * study.cpt.tokens < 0.2 * 1.4e6, "no text is read twice"
    study, plan = selection_plan.parse(perplexity.get_config())
    assert set(study.sizes) == {"99k", "323k"} and plan.chunk == study.seq_len and plan.second_round
    assert plan.share * study.cpt.tokens < plan.fraction * 1.2e6, "no text is read twice"


def test_a_second_round_needs_whole_runs():
    config = perplexity_small.get_config().to_dict()
    config["subsets"]["second_round"] = True
    config["cpt"]["branch_cooldown"] = 0.2
    with pytest.raises(ConfigError, match=r"cpt\.branch_cooldown must be 0"):
        selection_plan.parse(config)


def test_the_summary_has_a_line_for_each_part_and_tells_what_was_recommended(found):
    again = losses({"again": (4.0, 1.0), "first": (4.0, 1.0)}, (5, 6, 7))
    again.loc[again["subset"] == "again", "loss"] -= 0.01
    certain = dataclasses.replace(found.decision, supported=False)
    lines = selection_found.summary([dataclasses.replace(found, again=again, decision=certain)])
    assert len(lines) == 1 and lines["recommended"][0] == "random" and lines["winner"][0] == "perplexity"
    assert lines["measured"][0] == found.gap()["gain"] and lines["again"][0] == pytest.approx(0.01, abs=0.003)
    with_round = dataclasses.replace(found, again=again)
    assert "choosing again is better than the first choice, by 0.01" in selection_found.verdict(with_round)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("subsets", {"fractions": 0.1}, "did you mean 'fraction'"),
        ("subsets", {"share": 80.0}, "a token share, above 0"),
        ("subsets", {"confirm_seeds": (0, 1)}, "none of config.subsets.seeds"),
        ("grid", {"model": {}}, "config.grid: a perplexity study makes its own"),
        ("base_shares", {"prose": 0.1}, "config.base_shares.prose: no domain"),
        ("base_shares", {"code": 0.7, "biomedical": 0.7}, "they sum to 1.4, more than 1"),
    ],
)
def test_a_mistake_in_the_config_is_named(field, value, message):
    config = perplexity_small.get_config().to_dict()
    with pytest.raises(ConfigError, match=message):
        selection_plan.parse(config | {field: value})


CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({{
        "name": "tiny",
        "corpora": {{"prose": {{"source": "{0}/prose.jsonl"}}, "code": {{"source": "{0}/code.jsonl"}}}},
        "general": "prose",
        "domains": ("code",),
        "vocabulary": {{"kind": "bytes"}},
        "validation_share": 0.2,
        "model": {{"layers": 1, "d_model": 16, "heads": 1, "kv_heads": 1, "d_ff": 32}},
        "base": {{"tokens": 2560, "peak_lr": 1e-2, "warmup_tokens": 256}},
        "cpt": {{"tokens": 4096, "peak_lr": 1e-2, "warmup_tokens": 256}},
        "eval_tokens": (1024, 2048, 4096),
        "seq_len": 16,
        "batch_size": 8,
        "workers": 2,
        "base_shares": {{"code": 0.1}},
        "subsets": {{"chunk": 16, "fraction": 0.3, "mean_levels": (0.15, 0.5, 0.85), "seeds": (0,),
                    "base_seeds": (0, 1), "confirm_seeds": (5, 6), "control_seeds": 2, "second_round": True,
                    "bootstrap": 20}},
    }})
"""


@pytest.mark.slow
def test_the_whole_study_then_again_without_training(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("prose", "code"):
        letters = list("abcdefgh ,.")
        lines = [
            json.dumps({"text": f"{name} {i} " + "".join(rng.choice(letters[: 2 + i % 9], 80 + 3 * (i % 40)))})
            for i in range(120)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "config.py").write_text(CONFIG.format(tmp_path))
    words = ["perplexity-study", str(tmp_path / "config.py"), "--workdir", str(tmp_path / "work"), "--quiet"]
    assert cli.main(words) == 0
    first = capsys.readouterr().out
    assert "On held-out code loss perplexity" in first and "After one update of the base, choosing again is" in first
    table = pd.read_csv(tmp_path / "work" / "subsets-b1-code.csv")
    assert table["subset"].nunique() == 10 and table["w_code"].eq(0.8).all()
    assert (tmp_path / "work" / "landscape-b0-code.html").is_file()
    lines = pd.read_csv(tmp_path / "work" / "selection.csv")
    assert list(lines["base_seed"]) == [0, 1] and lines["again_low"].lt(lines["again_high"]).all()
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "runs").glob("*/result.json")}
    assert cli.main(words) == 0
    assert capsys.readouterr().out == first
    assert trained == {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "runs").glob("*/result.json")}


@pytest.mark.parametrize(
    "field, value, says",
    [
        ("share", float("nan"), "not nan"),
        ("share", 0, "above 0 and at most 1"),
        ("share", 1.01, "above 0 and at most 1"),
        ("chunk", 0, "at least 1"),
        ("chunk", 64.5, "expected int"),
        ("by", "documents", "did you mean 'document'"),
        ("unit", "ppl", "one of perplexity"),
        ("spread", "standard", "one of std, variance"),
        ("winsor", 2, "above 0 and at most 1"),
        ("winsor", 0, "above 0 and at most 1"),
        ("fraction", 1.5, "above 0 and below 1"),
        ("fraction", 1, "above 0 and below 1"),
        ("mean_levels", (0.2, 1.2), "a level lies above 0 and below 1"),
        ("spread_levels", (0, 0.5), "a level lies above 0 and below 1"),
        ("mean_levels", (0.5,), "at least two"),
        ("spread_levels", (0.5, 0.5), "each once"),
        ("mean_levels", 3, "expected a list"),
        ("base_seeds", (1, 1), "each once"),
        ("control_seeds", 9, "at most the 8 of confirm_seeds"),
        ("second_round", "yes", "expected"),
        ("seeds", (), "must not be empty"),
        ("seeds", (0, 0), "each once"),
        ("seeds", 1, "expected a list"),
        ("confirm_seeds", (5,), "at least two"),
        ("confirm_seeds", (5, 5), "each once"),
        ("bootstrap", -1, "at least 0"),
        ("bootstrap", "many", "expected int"),
    ],
)
def test_every_field_of_the_plan_has_a_range(field, value, says):
    config = perplexity_small.get_config().to_dict()
    with pytest.raises(ConfigError, match=rf"^config\.subsets\.{field}: .*{says}"):
        selection_plan.parse(config | {"subsets": {field: value}})
    config["subsets"] = "few"
    with pytest.raises(ConfigError, match=r"^config\.subsets: expected fields"):
        selection_plan.parse(config)


def test_no_field_of_the_plan_was_forgotten():
    assert {field.name for field in dataclasses.fields(selection_study.Plan)} == {
        "share", "chunk", "by", "unit", "spread", "winsor", "fraction", "mean_levels", "spread_levels",
        "seeds", "base_seeds", "confirm_seeds", "control_seeds", "second_round", "bootstrap",
    }  # fmt: skip
