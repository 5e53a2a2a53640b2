"""The what-if section: its arithmetic in JavaScript against Python, its markup, and a real browser that moves it."""

import base64
import dataclasses
import hashlib
import html
import itertools
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from scipy import integrate
from scipy.stats import t as student

from cptlaw import fitting, laws, report
from cptlaw.laws import Param
from cptlaw.planning.numbers import minimise
from cptlaw.planning.tradeoff import trade_off, tried_shares
from cptlaw.report import figures, whatif, whatif_data
from cptlaw.report.html import Markup

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
LEVEL, CONFIDENCE = 0.9, 0.8
DFS, TS = (3.0, 4.5, 30.0), (-40.0, -3.0, -0.5, 0.0, 0.1, 2.0, 9.0)
BASES = [[1e6, 3.0], [4e6, 2.0]]


@pytest.fixture(scope="module")
def questions():
    """Sizes of the table, whose bases are known, and others; shares at both ends; some far outside."""
    rng = np.random.default_rng(1)
    return {
        "params": np.concatenate([[5e4, 8e5, 2e5], 10 ** rng.uniform(4.5, 6.3, 12), [1e9]]),
        "tokens": 10 ** rng.uniform(4.8, 6.5, 16),
        "ratio": np.concatenate([[0.0, 1.0], rng.uniform(0, 1, 14)]),
    }


@pytest.fixture(scope="module")
def limit(study):
    return 1.05 * study[2].inputs["base_loss"]


@pytest.fixture(scope="module")
def found(study, questions, limit, node):
    """What one process of node says of everything that is compared here."""
    _, fits, decision, _ = study
    written = whatif_data.Laws()
    both = [fits["general"], fits["code"]]
    specs = whatif_data.of_fits([*both, *(fit.alone() for fit in both)], written, LEVEL)
    rows = [dict(zip(questions, map(float, row))) for row in zip(*questions.values())]
    at = {name: decision.inputs[name] for name in ("params", "tokens")}
    engine = whatif._script("whatif_engine.js")
    return node(f"""{engine}{written.script()}
    const shown = (_, v) => (typeof v === "number" && !Number.isFinite(v) ? null : v);
    const models = {json.dumps(specs)}.map((spec) => model(spec, LAWS)), rows = {json.dumps(rows)};
    const mixed = (own, share) => ({{...{json.dumps(at)}, ratio: own ? 1 - share : share}});
    const limit = {{value: {limit}, error: 0.01, moves: {json.dumps(whatif_data.moves(0.01, 40))}}};
    const sure = {{...limit, error: 0}};
    const decided = (general, domain, to) => tradeOff((s) => general.point(mixed(true, s)),
      (s) => domain.point(mixed(false, s)), (s) => general.holds(mixed(true, s), to), to.value,
      {json.dumps(tried_shares(*both))}, {CONFIDENCE});
    console.log(JSON.stringify({{
      losses: models.map((one) => rows.map((x) => one.loss(x, "{LEVEL:g}"))),
      holds: [sure, limit].map((to) => [0.2, 0.55, 0.61, 0.64].map((s) => models[0].holds(mixed(true, s), to))),
      conditioned: decided(models[0], models[1], sure), alone: decided(models[2], models[3], limit),
      never: decided(models[0], models[1], {{value: 0.1, error: 0}}),
      student: {json.dumps(DFS)}.map((df) => {json.dumps(TS)}.map((t) => studentBelow(t, df))),
      bases: [1e6, 2e6, 8e6].map((n) => baseLoss({json.dumps(BASES)}, n)),
    }}, shown))""")


def column(found, name):
    return np.array([one.get(name) for one in found], float)


def test_losses_and_intervals_are_those_of_python(study, questions, found):
    fits = study[1]
    for name, at in (("general", 0), ("code", 1)):
        for target, low, high in (("mean", "low", "high"), ("run", "runLow", "runHigh")):
            wanted = fits[name].predict(**questions, target=target, level=LEVEL)
            assert np.isnan(wanted.low[-1]) and not np.isnan(wanted.low[:-1]).any()
            for key, values in (("point", wanted.point), (low, wanted.low), (high, wanted.high)):
                np.testing.assert_allclose(column(found["losses"][at], key), values, rtol=1e-9)
        wanted = fits[name].alone().predict(**questions, level=LEVEL)
        for key, values in (("point", wanted.point), ("low", wanted.low), ("high", wanted.high)):
            np.testing.assert_allclose(column(found["losses"][at + 2], key), values, rtol=1e-9)


def test_the_share_of_the_law_alone_is_the_decision(study, found, limit):
    _, fits, decision, _ = study
    at = {name: decision.inputs[name] for name in ("params", "tokens", "base_loss")}
    alone = [fits[name].alone() for name in ("general", "code")]
    asked = {**at, "tolerance": limit / at["base_loss"] - 1, "base_loss_se": 0.01 / 1.05}
    point, safe = (trade_off(*alone, **asked, confidence=c) for c in (None, CONFIDENCE))
    assert found["alone"]["estimate"] == pytest.approx(point.point["share"], abs=1e-6)
    assert found["alone"]["safe"] == pytest.approx(safe.point["share"], abs=1e-6)
    assert found["alone"]["sure"] == pytest.approx(safe.holds, abs=1e-9)
    assert found["alone"]["safe"] < found["alone"]["estimate"] - 1e-3


def below(fit, x, share, limit):
    """Probability that the loss of the mean run is at most the limit, in closed form."""
    process = fit.process[fit.eval]
    at = {name: np.full(np.shape(share) or 1, value) for name, value in x.items()} | {"ratio": 1 - np.atleast_1d(share)}
    said = process.predict(at, "mean")
    return student.cdf((np.log(limit) - said.mean) / said.sd, process.df)


def test_the_share_of_a_conditioned_fit_is_what_its_distribution_says_and_near_what_its_draws_say(study, found, limit):
    _, fits, decision, _ = study
    general, domain = fits["general"], fits["code"]
    x = {name: decision.inputs[name] for name in ("params", "tokens")}

    def loss(fit, own):
        return fit.predict(**x, ratio=own, target="mean").point

    low, high = tried_shares(general, domain)
    best = minimise(
        lambda s: np.where(loss(general, 1 - s) <= limit, loss(domain, s), np.inf), low, high, 1
    )[0]  # fmt: skip
    assert found["conditioned"]["estimate"] == pytest.approx(best, abs=1e-6)
    shares = np.linspace(low, best, 361)
    holds = below(general, x, shares, limit)
    safe = shares[np.flatnonzero(holds >= CONFIDENCE)[-1]]
    assert found["conditioned"]["safe"] == pytest.approx(safe, abs=1e-6)
    assert found["conditioned"]["sure"] == pytest.approx(below(general, x, found["conditioned"]["safe"], limit)[0])
    base = decision.inputs["base_loss"]
    drawn = trade_off(general, domain, **x, base_loss=base, tolerance=0.05, confidence=CONFIDENCE)
    assert found["conditioned"]["safe"] == pytest.approx(drawn.point["share"], abs=0.01)


def test_the_probability_of_a_ceiling_counts_the_error_of_the_base_loss(study, found, limit):
    _, fits, decision, _ = study
    x = {name: decision.inputs[name] for name in ("params", "tokens")}
    shares = [0.2, 0.55, 0.61, 0.64]
    np.testing.assert_allclose(found["holds"][0], below(fits["general"], x, np.array(shares), limit), atol=1e-9)
    for share, held in zip(shares, found["holds"][1]):
        z = np.linspace(-8, 8, 20001)
        moved = np.exp(-z * z / 2) / np.sqrt(2 * np.pi) * below(fits["general"], x, share, limit + 0.01 * z)
        assert held == pytest.approx(integrate.trapezoid(moved, z), abs=1e-5)


def test_a_ceiling_that_nothing_meets_is_said(found):
    assert found["never"]["estimate"] is None and found["never"]["safe"] is None and found["never"]["least"] > 1


def test_students_distribution_and_losses_of_base_models(found):
    wanted = student.cdf(np.array(TS), np.array(DFS)[:, None])
    np.testing.assert_allclose(found["student"], wanted, rtol=1e-12)
    assert [base["how"] for base in found["bases"]] == ["measured", "between", "beyond"]
    np.testing.assert_allclose([base["value"] for base in found["bases"]], [3, np.sqrt(6), 3 * (2 / 3) ** 1.5])


def test_a_size_that_is_printed_as_the_asked_one_is_no_second_base(study):
    known = whatif_data.base_losses(study[0], "general", {"params": 8.001e5, "base_loss": 3.0})
    assert sorted(size for size, _ in known) == [5e4, 2e5, 8.001e5] and [8.001e5, 3.0] in known


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    """The page with its sliders; its pictures, which take seconds, are left out."""
    table, fits, decision, _ = study
    path = tmp_path_factory.mktemp("whatif") / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures.Drawing, "render", lambda self: (Markup(), Markup(), {}))
        return report.write(path, title="</script><b>", table=table, fits=fits, decisions=[decision])


def test_the_page_runs_its_own_script_and_no_other(written):
    source = written.read_text()
    scripts = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    assert len(scripts) == 1 and len(source) < 3e6
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in source and "eval(" not in scripts[0] and "fetch(" not in scripts[0]
    assert re.search(r'<section id="what-if" [^>]*hidden=', source) and "<noscript>" in source
    data = json.loads(re.search(r'id="what-if-data">(.*?)</script>', source).group(1))
    assert data["trade"]["tried"] == [0, 1] and len(data["trade"]["base"]) == 3
    for slider in data["sliders"]:
        assert slider["values"] == sorted(slider["values"]) and len(slider["words"]) == len(slider["values"])
        assert f'<label for="wi-{slider["name"]}"' in source and f'id="wi-{slider["name"]}"' in source


def test_a_law_that_cannot_be_written_leaves_the_page_without_sliders(study):
    @laws.law([Param("E", linear=True)], ["params", "tokens", "ratio"])
    def summed(p, x, xp):
        return p.E + xp.sum(xp.stack([xp.log(x.params), x.ratio]), axis=0)

    table, fits, _, _ = study
    fit = dataclasses.replace(fits["code"].alone(), law=summed, params={"E": 1.0}, samples={})
    section = whatif.section({"code": fit}, None, [], table, LEVEL)
    assert "There are no sliders on this page" in section.markup and section.script == ""


def test_names_cannot_leave_the_data(study):
    table, fits, _, _ = study
    name = "</script><script>"
    named = table.rename(columns={"w_code": f"w_{name}"})
    section = whatif.section({name: dataclasses.replace(fits["code"].alone(), eval=name)}, None, [], named, LEVEL)
    assert section.script and "</script><script>" not in section.markup


def test_a_column_that_no_run_moved_has_no_slider_and_is_named(study):
    table, fits, _, _ = study
    alone = fits["code"].alone()
    still = dataclasses.replace(alone, ranges=alone.ranges | {"tokens": (1e6, 1e6), "ratio": (0.25, 0.25)})
    section = whatif.section({"code": still}, None, [], table, LEVEL)
    assert "The same in every run, and here: Tokens 1M." in section.markup and 'id="wi-params"' in section.markup
    assert 'id="wi-tokens"' not in section.markup and 'id="wi-share"' not in section.markup


def test_draws_are_thinned_to_the_pages_size_and_their_number_said(study, monkeypatch):
    table, fits, _, _ = study
    monkeypatch.setattr(whatif_data, "BYTES", 2000)
    alone = fits["code"].alone()
    section = whatif.section({"code": alone}, None, [], table, LEVEL)
    kept = int(2000 / (8 * len(alone.params) * 4 / 3))
    assert 2 < kept < 40 and f"{kept} of 40, which keeps" in section.markup


# A frame has the width of a phone, which a headless window cannot. Every slider goes to both ends and back.
MOVES = """<!doctype html><iframe src="file://{page}" style="width: {width}px; height: 900px; border: 0"></iframe>
<pre id="measured"></pre><script>addEventListener("load", async () => {{
  const page = document.querySelector("iframe").contentDocument;
  const rest = () => new Promise((done) => setTimeout(done, 700));
  const seen = [], inputs = [...page.querySelectorAll("#what-if input")];
  const look = (moved) => seen.push({{
    moved, said: page.querySelector("#wi-answer").textContent, wide: page.documentElement.scrollWidth,
    places: Object.fromEntries(inputs.map((i) => [i.id.slice(3), Number(i.value)])),
    read: inputs.map((i) =>
      [i.getAttribute("aria-valuetext"), page.querySelector(`output[for=${{i.id}}]`).textContent, i.labels.length]),
    cells: [...page.querySelectorAll("#wi-losses td")].map((cell) => cell.textContent),
    charts: [...page.querySelectorAll(".chart svg")].map((svg) => [svg.getAttribute("aria-label"),
      [...svg.querySelectorAll("text")].filter((text) => text.getBoundingClientRect().right > {width})
        .map((text) => text.textContent)]),
  }});
  await rest();
  look("");
  for (const input of inputs) {{
    const before = input.value;
    for (const value of [input.min, input.max, before]) {{
      input.value = value;
      input.dispatchEvent(new Event("input", {{bubbles: true}}));
      await rest();
      if (value !== before) look(input.id.slice(3));
    }}
  }}
  page.querySelector("#wi-safe")?.click();
  await rest();
  look("safe");
  document.querySelector("#measured").textContent = JSON.stringify({{
    seen, paper: getComputedStyle(page.body).backgroundColor}});
}});</script>"""


def moved(page, tmp_path, width, dark):
    """What the page shows with each slider at both its ends."""
    (tmp_path / "frame.html").write_text(MOVES.format(page=page, width=width))
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1500,1000", "--allow-file-access-from-files",
        "--virtual-time-budget=60000", *(["--blink-settings=preferredColorScheme=0"] if dark else []),
    ]  # fmt: skip
    done = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", f"file://{tmp_path / 'frame.html'}"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "CONSOLE" not in done.stderr
    return json.loads(html.unescape(re.findall(r'<pre id="measured">(.*?)</pre>', done.stdout, re.DOTALL)[-1]))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (1400, True), (390, False), (390, True)])
def test_a_real_browser_moves_every_slider_and_says_what_python_says(study, written, tmp_path, width, dark):
    measured = moved(written, tmp_path, width, dark)
    assert measured["paper"] == ("rgb(20, 23, 28)" if dark else "rgb(254, 254, 254)")
    data = json.loads(re.search(r'id="what-if-data">(.*?)</script>', written.read_text()).group(1))
    values = {slider["name"]: slider["values"] for slider in data["sliders"]}
    assert len(measured["seen"]) == 2 + 2 * len(values)
    for seen in measured["seen"]:
        assert seen["wide"] <= width and len(seen["charts"]) == 4
        for label, outside in seen["charts"]:
            assert len(label) > 40 and "NaN" not in label and not outside
        assert all(text == shown and labels == 1 for text, shown, labels in seen["read"])
        _compare(study, {name: values[name][int(place)] for name, place in seen["places"].items()}, seen)
    assert len({seen["said"] for seen in measured["seen"]}) >= 2 * len(values)


def _compare(study, asked, seen):
    """The table of losses and the probability against Python."""
    _, fits, _, _ = study
    x, cells = {name: asked[name] for name in ("params", "tokens")}, iter(seen["cells"])
    for name, share in (("general", 1 - asked["share"]), ("code", asked["share"])):
        mean, run = (fits[name].predict(**x, ratio=share, target=target) for target in ("mean", "run"))
        spans = [f"{one.low:.3f} to {one.high:.3f}".replace("nan to nan", "unknown") for one in (mean, run)]
        assert [next(cells) for _ in range(4)] == [f"{name} loss", f"{mean.point:.3f}", *spans]
    base = float(re.search(r"base model's ([\d.]+)", seen["said"]).group(1))
    held = re.search(r"with a probability of (over 99%|under 1%|\d+%)", seen["said"]).group(1)
    chance = below(fits["general"], x, asked["share"], (1 + asked["tolerance"]) * base)[0]
    said = {"over 99%": "100%", "under 1%": "0%"}.get(held, held)
    assert chance == pytest.approx(int(said[:-1]) / 100, abs=0.1)  # the base model's loss is read as it is printed


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_shares_of_three_corpora_give_way_to_each_other(tmp_path, monkeypatch):
    names, rng = ("code", "math", "web"), np.random.default_rng(0)
    law = laws.get("additive", corpora=names)
    mixes = [m for m in itertools.product((0, 0.25, 0.5, 0.75, 1), repeat=3) if sum(m) == 1]
    rows = []
    for own in names:
        theta = {p.name: rng.uniform(0.3, 0.8) if p.linear else 0.6 * np.mean(p.start) for p in law.params}
        theta |= {"E": 1.5, f"C[{own}]": 4.0}
        for params, (i, mix), tokens in itertools.product((1e8, 4e8, 1.6e9), enumerate(mixes), (1e9, 4e9)):
            x = {"params": params, "tokens": tokens, **{f"w_{name}": share for name, share in zip(names, mix)}}
            loss = float(law.predict(theta, x)) * np.exp(rng.normal(0, 0.002))
            rows.append({"run": f"{params:g}-{i}", "eval": own, "loss": loss, **x})
    table = pd.DataFrame(rows)
    fits = {
        name: fitting.fit(table, "additive", name, bootstrap=20, starts=8, try_remedies=False)
        for name in names
    }  # fmt: skip
    fits["web"] = fits["web"].alone()  # one of each kind
    monkeypatch.setattr(figures.Drawing, "render", lambda self: (Markup(), Markup(), {}))
    page = report.write(tmp_path / "r.html", title="three", table=table, fits=fits)
    measured = moved(page, tmp_path, 390, False)
    parts = [seen for seen in measured["seen"] if seen["moved"].startswith("part")]
    assert len(parts) == 6
    data = json.loads(re.search(r'id="what-if-data">(.*?)</script>', page.read_text()).group(1))
    values = {slider["name"]: slider["values"] for slider in data["sliders"]}
    for seen in parts:
        place, cells = seen["places"], iter(seen["cells"])
        shares = np.array([place[f"part-{i}"] for i in range(3)])
        assert shares.sum() == pytest.approx(1, abs=0.01)  # a slider shows its share in steps
        x = {name: values[name][int(place[name])] for name in ("params", "tokens")}
        for name, fit in fits.items():
            said = fit.predict(**x, shares=dict(zip(names, shares / shares.sum())))
            label, point, *_ = (next(cells) for _ in range(4))
            assert label == f"{name} loss" and float(point) == pytest.approx(float(said.point), rel=0.003)
