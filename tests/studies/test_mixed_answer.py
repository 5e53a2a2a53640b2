"""From a grid of mixes of many corpora to shares, confirming runs and the report; and every other question."""

import numpy as np
import pandas as pd
import pytest

from cptlaw import fitting, laws
from cptlaw.execution import sweep
from cptlaw.execution.workdir import Workdir
from cptlaw.fitting import Fit, unseen
from cptlaw.fitting import fit as real_fit
from cptlaw.fitting.condition import condition
from cptlaw.fitting.rows import collect
from cptlaw.report import figures
from cptlaw.studies import answerable, grid, mixture_study
from cptlaw.studies import config as config_lib
from cptlaw.studies.prepared import Prepared

DOMAINS = ("code", "math", "law")
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
SIMPLEX = {"count": 14, "floors": {"prose": 0.1}}


@pytest.fixture
def make(make_config, tmp_path):
    """A study of several domains and a corpus that is only evaluated, as if its corpora were prepared."""

    def make(domains=DOMAINS, evaluated=("news",), sizes=("small", "medium", "large"), **changes):
        names = ("prose", *domains, *evaluated)
        mixes = {"simplex": SIMPLEX}
        config = make_config(**{
            "corpora": {name: f"{name}.jsonl" for name in names}, "domains": domains, "evaluated": evaluated,
            "sizes": {"small": {"d_model": 64}, "medium": {"d_model": 96}, "large": {"d_model": 128}},
            "grid": dict.fromkeys(sizes, mixes), "cpt__tokens": 64_000,
            "eval_tokens": (16_000, 32_000, 64_000), "held_out__tokens": 32_000,
            "fit": {"law": "additive", "bootstrap": 16}, **changes,
        })  # fmt: skip
        study = config_lib.parse(config)
        return Prepared(study, Workdir(tmp_path), 32, dict.fromkeys(study.names, "data"), progress=False)

    return make


def loss(study, corpus, params, tokens, shares):
    """A truth: every corpus learns from its own share, and the one that is only evaluated from the prose."""
    own = shares.get("prose" if corpus in study.evaluated else corpus, 0.0)
    other = sum(shares.values()) - own
    return 2.0 + 0.3 * (params / 1e5) ** -0.3 + 0.2 * (tokens / 1e4) ** -0.3 + 0.5 / (0.2 + own**0.5 + 0.1 * other)


def rows(study, run):
    params = grid.params(study, run.size)
    rng = np.random.default_rng(int(run.id.rsplit("-", 1)[1], 16))
    for tokens in (0, *run.eval_tokens):
        for corpus in run.evals:
            base = loss(study, corpus, params, 1e4, {"prose": 1.0})
            value = loss(study, corpus, params, tokens, run.shares) + rng.normal(0, 0.003) if tokens else base
            shares = {f"w_{name}": run.shares.get(name, 0.0) for name in study.names}
            yield {
                "run": run.id, "base": run.init, "params": params, "model": run.size, "tokens": tokens,
                "seed": run.seed, "status": "ok", **shares, "eval": corpus, "loss": value, "loss_se": 0.01,
                **{f"unique_tokens_{name}": 500_000 for name in study.names},
            }  # fmt: skip


def quick_fit(table, law, eval, hold_out, **_):
    """The additive law near the truth, conditioned on the rows as `fitting.fit` does it, without the search."""
    made = laws.for_table(law, table)
    found = collect(table, made, (eval,), hold_out)
    theta = {"E": 2.0, "A": 0.02, "alpha": 0.3, "B": 0.006, "beta": 0.3}
    theta |= {name: 0.8 if name[0] == "C" else 0.4 for name in made.names if "[" in name}
    if f"C[{eval}]" in theta:
        theta |= {name: 0.2 for name in theta if name[0] == "C" and name != f"C[{eval}]"} | {f"C[{eval}]": 2.0}
    kept = ~found.held_out
    x = {name: value[kept] for name, value in found.x.items()}
    process = condition(made, theta, x, found.y[kept], found.frame["run"][kept].tolist())
    predicted = np.exp(process.predict(found.x, "mean").mean)
    return Fit(
        law=made, eval=eval, params=theta, samples={name: np.full(20, value) for name, value in theta.items()},
        codes={}, influence={}, scores={"fit": {}, "held_out": {"n": 0, "what": "nothing"}},
        residuals=found.frame.reset_index(drop=True).assign(
            observed=found.y, predicted=predicted, held_out=found.held_out
        ),
        ranges={name: (float(value.min()), float(value.max())) for name, value in x.items()}, n_rows=int(kept.sum()),
        digest="table", settings={"resample": "runs", "fixed": {}, "seed": 0, "shared": []}, process={eval: process},
    )  # fmt: skip


@pytest.fixture
def answered(monkeypatch):
    """Runs the loop with runs that are "trained" from the truth; (answers, the runs that were asked for by title)."""

    def answered(prepared, broken=(), fit=quick_fit, page=False):
        asked = {}

        def fake_sweep(runs, workdir, *, title, **options):
            asked.setdefault(title, []).extend(runs)
            return sweep.Summary((), {run.id: "it broke" for run in runs if run.seed in broken})

        def collect_rows(runs, workdir, known=()):
            kept = [run for run in runs if run.init and run.seed not in broken]
            return pd.DataFrame([row for run in kept for row in rows(prepared.study, run)])

        monkeypatch.setattr(mixture_study.sweep, "sweep", fake_sweep)
        monkeypatch.setattr(mixture_study.sweep, "collect", collect_rows)
        monkeypatch.setattr(fitting, "fit", fit)
        if not page:
            monkeypatch.setattr(mixture_study.report, "write", lambda path, **_: path)
        answerable.check(prepared.study)
        return list(mixture_study.run(prepared)), asked

    return answered


def test_a_mixture_is_recommended_trained_with_seeds_and_shown_for_every_corpus(make, answered):
    question = {"kind": "mixture", "tolerances": {"prose": 0.1}, "weights": dict.fromkeys(DOMAINS, 1)}
    prepared = make(question=question, confirm_runs=3)
    (answer,), asked = answered(prepared)
    study, decision = prepared.study, answer.decision
    assert decision.kind == "mixture" and set(decision.point) == {"prose", *DOMAINS} == set(decision.interval)
    assert len({run.seed for run in asked["confirm"]}) == 3
    assert not {run.seed for run in asked["confirm"]} & study.seeds()
    for run in asked["confirm"]:
        assert run.shares == pytest.approx({k: round(v, 3) for k, v in decision.point.items() if v > 5e-4}, abs=2e-3)
        assert sum(run.shares.values()) == pytest.approx(1)
    assert list(answer.checked["eval"]) == list(study.names), "every corpus, also the one that no run trains on"
    assert (answer.checked["runs"] == 3).all() and (answer.checked["sd"] > 0).all()
    ceiling = decision.inputs["ceilings"]["prose"]
    params = grid.params(study, "large")
    assert ceiling == pytest.approx(1.1 * loss(study, "prose", params, 1e4, {"prose": 1.0}))
    assert loss(study, "prose", params, 64_000, decision.point) < 1.01 * ceiling
    domains = [decision.point[name] for name in DOMAINS]  # the truth treats them alike
    assert max(domains) - min(domains) < 0.15
    text = answer.text()
    assert "trained 3 times (they were in no fit)" in text and "of 3 inside the interval" in text
    fit = Fit.load(prepared.workdir.fit("mixture", "news"))
    assert "w_news" not in fit.law.columns and "w_prose" in fit.law.columns


def test_the_page_of_a_mixture_shows_its_shares_and_every_measured_loss(make, answered, monkeypatch):
    monkeypatch.setattr(figures.Drawing, "render", lambda self: ("<svg></svg>", "<svg></svg>", {"png": b""}))
    question = {"kind": "mixture", "tolerances": {"prose": 0.1}}
    (answer,), _ = answered(make(("code",), question=question, confirm_runs=2, sizes=("small", "large")), page=True)
    page, measured = answer.report.read_text(), answer.checked.set_index("eval")["measured"]
    assert "This mix was then trained 2 times, each with a seed of its own" in page
    kept = measured["prose"] <= answer.decision.inputs["ceilings"]["prose"]
    assert f"the ceiling on prose {'holds' if kept else 'is passed'} ({measured['prose']:.3f} against" in page
    assert f"{measured['news']:.3f} \N{PLUS-MINUS SIGN}" in page, "also of a corpus that no run trained on"
    for name in ("recommended-mix", "measured"):
        assert f'id="{name}"' in page and (answer.report.parent / "report_figures" / f"{name}.png").is_file()
    assert "equal shares" in page and "weighted sum of losses" in page


def test_confirming_runs_that_fail_leave_the_others(make, answered, capsys):
    prepared = make(question={"kind": "mixture"}, confirm_runs=2, evaluated=(), domains=("code", "math"))
    (answer,), asked = answered(prepared, broken={1})
    assert {run.seed for run in asked["confirm"]} == {1, 2} and (answer.checked["runs"] == 1).all()
    assert "it broke" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("corpora, fit", [(2, real_fit), (20, quick_fit)], ids=["2", "20"])
def test_two_corpora_and_twenty_are_answered_alike(make, answered, corpora, fit):
    domains = tuple(f"domain{i}" for i in range(1, corpora))
    grid_of = {"simplex": {"count": 2 * corpora + 4, "caps": dict.fromkeys(domains, 0.7)}}
    sizes = dict.fromkeys(("small", "medium", "large"), grid_of)
    prepared = make(domains, grid=sizes, question={"kind": "mixture"}, confirm_runs=2)
    (answer,), _ = answered(prepared, fit=fit, page=True)
    assert len(answer.decision.interval) == corpora and answer.decision.supported
    assert len(answer.checked) == corpora + 1 and (answer.checked["inside"] / answer.checked["runs"]).mean() > 0.7
    domains_only = [answer.decision.point[name] for name in domains]
    assert max(domains_only) - min(domains_only) < 0.15


PAIRS = {"domains": ("code",), "evaluated": ()}
PAIRS["grid"] = {size: {"domain_shares": SHARES} for size in ("small", "medium", "large")}


@pytest.mark.parametrize(
    "question, size, tokens",
    [
        ({"kind": "share", "loss": 2.9}, "large", 64_000),
        ({"kind": "limited-data", "domain_tokens": 20_000}, "large", None),
        ({"kind": "budget", "flops": 1.2e10}, None, None),
        ({"kind": "trade-off", "rise": 0.2, "confidence": 0, "size": "medium", "tokens": 32_000}, "medium", 32_000),
    ],
    ids=lambda x: x["kind"] if isinstance(x, dict) else "",
)
def test_every_question_is_answered_and_its_run_is_trained(make, answered, question, size, tokens):
    prepared = make(question=question, **PAIRS)
    (answer,), asked = answered(prepared)
    assert answer.decision is not None, answer.reason
    assert answer.checked is not None, answer.reason
    (run,) = asked["confirm"]
    assert size in (None, run.size) and tokens in (None, run.tokens)
    assert run.tokens % prepared.study.tokens_per_step() == 0 and run.tokens == run.eval_tokens[-1]
    assert run.tokens == pytest.approx(answer.decision.point.get("tokens", run.tokens), rel=0.05)
    assert run.shares.get("code", 0) == pytest.approx(answer.decision.point["share"], abs=6e-4)


def test_domains_are_asked_about_one_by_one_and_each_uses_only_its_own_pairs(make, answered):
    both = {"domain_shares": SHARES, "mixes": ({"prose": 0.2, "code": 0.4, "math": 0.4},)}
    prepared = make(("code", "math"), grid=dict.fromkeys(("small", "medium", "large"), both), confirm_runs=0)
    answers, asked = answered(prepared)
    assert [answer.name for answer in answers] == ["code", "math"] and set(asked) == {"grid"}
    assert all("config.confirm_runs is 0" in answer.reason for answer in answers)
    fit = Fit.load(prepared.workdir.fit("code", "news"))
    assert set(fit.law.columns) == {"params", "tokens", "w_code", "w_prose"}
    assert not any("math" in run for run in fit.residuals["run"])
    assert answers[0].report.name == "report-code.html"


def test_a_study_says_how_well_a_domain_left_out_is_predicted(make, answered, monkeypatch):
    pairs = {"domain_shares": (0.0, 0.1, 0.3, 0.5, 0.7)}
    section = {"probe_tokens": (16_000, 32_000), "probe_size": "medium"}
    prepared = make(
        domains=(*DOMAINS, "music"), evaluated=(), grid=dict.fromkeys(("small", "medium", "large"), pairs),
        fit={"law": "dcpt:constrained=false", "bootstrap": 4}, cross_domain=section, confirm_runs=0,
    )  # fmt: skip
    asked = {}

    def leave_out(table, **given):
        asked.update(given, table=table)
        lines = pd.DataFrame({"domain": ["code"] * 3, "method": ["K3", "pooled + constant", "own dcpt"]})
        return unseen.Unseen(
            lines.assign(mean_log=[0.01, 0.02, 0.001], r2=1, huber=0, cover=np.nan, width=0), "own dcpt"
        )

    monkeypatch.setattr(mixture_study.unseen, "leave_out", leave_out)
    monkeypatch.setattr(mixture_study, "_answer", lambda _, part, *rest: part)
    (*_, said), _ = answered(prepared)
    assert "K3 errs by 1.00% on a domain that it has not seen, the pooled law plus one constant by 2.00%" in said.text()
    assert "better in 1 of 1 domains" in said.text()
    medium = grid.params(prepared.study, "medium")
    assert asked["tokens"] == (16_000, 32_000) and asked["size"] == medium and asked["leave"] == 1
    table = asked["table"]
    assert set(table["mixed_in"]) == {*DOMAINS, "music"} and set(table["eval"]) == {"prose", "domain"}
    probe = table[(table["params"] == medium) & (table["mixed_in"] == "law") & (table["w_domain"] == 0.7)]
    probe = probe[probe["eval"] == "domain"].set_index("tokens")["loss"]
    assert table.loc[table["mixed_in"] == "law", "k1"].unique() == pytest.approx([probe[16_000]])
    assert len(pd.read_csv(prepared.workdir.cross_domain)) == 3


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ({"probe_tokens": (16_000,)}, "probe_tokens"),
        ({"probe_tokens": (16_000, 48_000)}, "probe_tokens"),
        ({"probe_tokens": (32_000, 16_000)}, "probe_tokens"),
        ({"probe_tokens": (16_000, 32_000), "probe_size": "huge"}, "probe_size"),
        ({"probe_tokens": (16_000, 32_000), "leave_out": 2}, "leave_out"),
        ({"probe_tokens": (16_000, 32_000), "leave_out": 0}, "leave_out"),
    ],
)
def test_a_cross_domain_section_that_cannot_be_is_refused_by_its_field(make, section, field):
    with pytest.raises(config_lib.ConfigError, match=rf"config\.cross_domain\.{field}"):
        make(domains=(*DOMAINS, "music"), cross_domain=section)
