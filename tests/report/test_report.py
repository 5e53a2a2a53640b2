import csv
import dataclasses
import html.parser
import json
import re
import shutil
import subprocess

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cptlaw import fitting, report
from cptlaw.fitting.verdicts import Check, LackOfFit
from cptlaw.planning.confirmation import confirmation
from cptlaw.planning.limited_data import limited_data
from cptlaw.report import answer, figures, style
from cptlaw.report.html import Markup, table, tag

FIGURES = ["front", "recommended-share", "loss-by-share", "predicted-observed", "residuals"]
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@pytest.fixture(scope="session")
def page(study, tmp_path_factory):
    table, fits, decision, confirm = study
    path = tmp_path_factory.mktemp("report") / "report.html"
    other = limited_data(fits["code"], params=8e5, domain_tokens=1e5, tokens=1e6)
    arguments = {"table": table, "fits": fits, "decisions": [decision, other], "confirm": confirm}
    return report.write(path, title="A <small> study", command="cptlaw demo --fast", **arguments)


class Outline(html.parser.HTMLParser):
    """Checks nesting; collects text, ids and attributes."""

    VOID = frozenset(["meta", "input", "br", "img", "link", "path", "use", "stop", "rect", "line", "circle"])

    def __init__(self, source):
        super().__init__()
        self.stack, self.words, self.ids, self.links = [], [], [], []
        self.feed(source)
        assert self.stack == []

    def handle_starttag(self, name, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[key] for key in ("href", "src", "xlink:href") if key in found]
        if name not in self.VOID:
            self.stack.append(name)

    def handle_startendtag(self, name, attributes):
        self.handle_starttag(name, attributes)
        if name not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, name):
        if name not in self.VOID:
            assert self.stack.pop() == name

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_stands_alone_and_is_well_formed(page):
    outline = Outline(page.read_text())
    assert len(outline.ids) == len(set(outline.ids))
    for link in outline.links:
        if link.startswith("#"):
            assert link[1:] in outline.ids
        else:
            assert link.startswith("report_figures/") and (page.parent / link).is_file()
    assert "A <small> study" in "".join(outline.words)
    assert not re.search(r"</\w+>", "".join(outline.words)), "markup that was escaped"


def test_the_first_screen_answers(study, page):
    _, _, decision, confirm = study
    first = re.sub(r"<[^>]+>", " ", page.read_text().split("<main>")[1].split("<h2")[0])
    assert decision.question.replace(">", "&gt;") in first
    assert answer.headline(decision) in first
    for value in confirm["loss"]:
        assert f"{value:.3f}" in first
    assert "trained once" in first and "90% interval for one run" in first


def test_the_page_names_the_runs_the_answer_hangs_on_and_what_other_answers_cost(study, page):
    source, decision = page.read_text(), study[2]
    run = decision.influence[0]
    assert f"<td>{run['run']}</td>" in source and f"{100 * run['share without it']:.1f}%" in source
    other = source.split("With little domain text")[1].split("<h2")[0]
    assert "code loss, 5% replay" in other and "of draws agree" in other


def test_every_figure_has_a_text_alternative_a_picture_and_its_data(page):
    source = page.read_text()
    for name in FIGURES:
        assert f'<figure id="{name}">' in source
        picture = matplotlib.image.imread(page.parent / "report_figures" / f"{name}.png")
        assert picture[..., :3].std() > 0.02  # something is drawn
        with (page.parent / "report_figures" / f"{name}.csv").open() as file:
            assert len(list(csv.DictReader(file))) > 10
    labels = re.findall(r'<svg [^>]*role="img" aria-label="([^"]{40,})"', source)
    assert len(labels) == 2 * len(FIGURES)


def test_figures_take_their_colours_from_the_theme(page):
    for svg in re.findall(r"<svg.*?</svg>", page.read_text(), flags=re.DOTALL):
        colours = set(re.findall(r"(?:fill|stroke): (#\w+)", svg))
        assert colours <= {"#ffffff"}, "a colour that dark mode cannot change"
        assert "var(--ink)" in svg


def test_the_confirming_run_is_judged_by_the_interval_of_one_run(study):
    _, fits, decision, confirm = study
    checked = confirmation(fits, confirm, decision.level).set_index("eval")
    law = fits["code"].predict(params=8e5, tokens=1e6, ratio=confirm["w_code"].iloc[0], target="mean")
    assert checked.loc["code", "predicted"] == pytest.approx(float(law.point))
    assert checked.loc["code", "high"] - checked.loc["code", "low"] > float(law.high - law.low)
    moved = confirm.assign(loss=confirm["loss"] + 1.0)
    assert not confirmation(fits, moved, decision.level)["inside"].any()
    assert confirmation(fits, confirm, decision.level)["inside"].all()


def test_a_page_without_a_decision_still_reports_the_fits(study, tmp_path):
    table, fits, _, _ = study
    source = report.write(tmp_path / "r.html", title="fits", table=table, fits={"code": fits["code"]}).read_text()
    assert "loss-by-share" in source and "recommended-share" not in source


def test_a_law_that_no_baseline_needs_to_fear_is_cautioned_about_on_the_first_screen(study):
    table, fits, decision, _ = study
    held = {"n": 5, "law": {"mean_log": 0.031}, "beaten_by": ["carry_tokens"]}
    bad = {**fits, "code": dataclasses.replace(fits["code"], scores={"held_out": held})}
    screen = answer.first_screen(decision, bad, table, None, None)
    assert "on 5 rows it never saw the code law is typically 3.1% off, no better than carry tokens" in screen
    assert "Caution" not in answer.first_screen(decision, fits, table, None, None)


def test_a_rejected_law_is_what_the_page_begins_with_and_a_win_stands_on_the_first_screen(study, tmp_path, monkeypatch):
    monkeypatch.setattr(figures.Drawing, "render", lambda self: (Markup(), Markup(), {}))  # seconds of drawing
    table, fits, decision, _ = study
    found = LackOfFit((Check("settings", 1e-4, 30.0, (8.0, 6.0), 0.003, 0.02),), 3, 6, 2.5)
    sound = {name: dataclasses.replace(fit, lack_of_fit={}) for name, fit in fits.items()}
    bad = {**sound, "code": dataclasses.replace(fits["code"], lack_of_fit={"code": found})}
    page = report.write(tmp_path / "r.html", title="study", table=table, fits=bad, decisions=[decision]).read_text()
    assert page.index("REJECTED:") < page.index('class="title"') and "misses settings by 0.05 nats (2.00%)" in page
    assert answer.rejections(sound) == ""
    held = {"n": 5, "law": {"mean_log": 0.01}, "mean": {"mean_log": 0.2}, "beaten_by": []}
    won = {"code": dataclasses.replace(fits["code"], scores={"held_out": held})}
    assert "better than the best rule without a law, mean, which is 20.0% off" in "".join(answer.standing(won))


def test_a_failing_report_leaves_the_old_one(study, tmp_path):
    table, _, decision, _ = study
    path = tmp_path / "r.html"
    path.write_text("old")
    with pytest.raises(KeyError):
        report.write(path, title="x", table=table, fits={}, decisions=[decision])
    assert path.read_text() == "old"


def test_text_is_escaped_once():
    assert tag("p", "a < b", Markup("<i>c</i>"), title='"q"') == '<p title="&quot;q&quot;">a &lt; b<i>c</i></p>'
    assert 'class="n"' not in table(["name"], [["text"]])
    assert 'class="n"' in table(["number"], [["-1.5"]])


@pytest.mark.parametrize("theme", [0, 1])
def test_text_and_data_colours_have_enough_contrast(theme):
    def luminance(colour):
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    paper = luminance(style.COLOURS["paper"][theme])
    for name, pair in style.COLOURS.items():
        light, dark = sorted([luminance(pair[theme]), paper])
        ratio = (dark + 0.05) / (light + 0.05)
        need = 4.5 if name in ("ink", "muted", "accent", "good", "bad") else 1.7 if name.startswith("tokens") else 2.8
        if name not in ("paper", "rule", "panel"):
            assert ratio >= need, (name, ratio)


# A frame has the width of a phone, which a headless window cannot; media queries go by it.
MEASURE = """<!doctype html><iframe src="file://{page}" style="width: {width}px; height: 900px; border: 0"></iframe>
<pre id="measured"></pre><script>addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument;
  const box = (e) => {{ const r = e.getBoundingClientRect(); return [r.left, r.right, r.width, r.height]; }};
  document.querySelector("#measured").textContent = JSON.stringify({{
    page: page.documentElement.scrollWidth, paper: getComputedStyle(page.body).backgroundColor,
    figures: [...page.querySelectorAll("figure svg")].map(box).filter((b) => b[2] > 0),
    heading: box(page.querySelector("h1")), comparison: box(page.querySelector(".cards")),
  }}); }});</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
def test_a_real_browser_shows_it_all(page, tmp_path, width, dark):
    (tmp_path / "frame.html").write_text(MEASURE.format(page=page, width=width))
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000",
        "--allow-file-access-from-files",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
    ]  # fmt: skip
    done = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", f"file://{tmp_path / 'frame.html'}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr
    measured = json.loads(html.unescape(re.findall(r'<pre id="measured">(.*?)</pre>', done.stdout, re.DOTALL)[-1]))
    assert measured["page"] <= width  # nothing makes the page scroll sideways
    assert len(measured["figures"]) == len(FIGURES)
    for left, right, across, height in measured["figures"]:
        assert left >= 0 and right <= width and across > 0.75 * min(width, 700) and height > 100
    assert measured["heading"][3] < 120 and measured["comparison"][1] <= width
    assert measured["paper"] == ("rgb(20, 23, 28)" if dark else "rgb(254, 254, 254)")


def refitted(table, law, **given):
    return fitting.fit(table, law, "code", **{"bootstrap": 10, "starts": 4, **given})


def test_a_law_without_a_ratio_and_without_resamples_is_reported(study, tmp_path):
    fit = refitted(study[0], "chinchilla", bootstrap=0)
    source = report.write(tmp_path / "r.html", title="x", table=study[0], fits={"code": fit}).read_text()
    assert "loss-by-share" not in source and "predicted-observed" in source
    assert "nan" not in source and "unknown: fitted without resamples" in source


def test_runs_of_one_share_have_no_curve_over_the_share(study, tmp_path):
    table = study[0][study[0]["w_code"] == 0.25]
    fit = refitted(table, "dcpt")
    source = report.write(tmp_path / "r.html", title="x", table=table, fits={"code": fit}).read_text()
    assert "loss-by-share" not in source and "not determined: ratio never varied" in source


def test_names_in_other_scripts_are_drawn_without_a_warning(study, tmp_path, recwarn):
    table, fits, _, _ = study
    named = table.rename(columns={"w_code": "w_代码"}).assign(eval=table["eval"].replace("code", "代码"))
    rows = fits["code"].residuals.rename(columns={"w_code": "w_代码"}).assign(eval="代码")
    process = {"代码": fits["code"].process["code"]}
    fit = dataclasses.replace(fits["code"], eval="代码", residuals=rows, process=process)
    source = report.write(tmp_path / "r.html", title="x", table=named, fits={"代码": fit}).read_text()
    assert "share of 代码 text" in source and not [w for w in recwarn if "Glyph" in str(w.message)]


def test_letters_that_no_font_has_are_spelled_in_pictures():
    figure = Figure()
    words = figure.text(0, 0, "a\U00013000 é")  # a hieroglyph
    style.spell(figure)
    assert words.get_text() == "a[13000] é"


def test_lists_and_dates_of_a_table_are_shown(study, tmp_path):
    table, fits, _, _ = study
    odd = table.assign(tags=[["a", "b"]] * len(table), when=pd.Timestamp("2026-01-02"))
    odd.loc[3, "when"] = pd.NaT
    source = report.write(tmp_path / "r.html", title="x", table=odd, fits={"code": fits["code"]}).read_text()
    assert "2026-01-02" in source and "NaT" not in source


def test_a_long_table_is_shown_by_the_runs_that_were_fitted(study, tmp_path, monkeypatch):
    monkeypatch.setattr(figures.Drawing, "render", lambda self: (Markup(), Markup(), {}))  # seconds of drawing
    monkeypatch.setattr(report.page, "MOST_ROWS", 20)
    table, fits, _, _ = study
    more = pd.concat([table, table.assign(run="another-" + table["run"])])
    source = report.write(tmp_path / "r.html", title="x", table=more, fits={"code": fits["code"]}).read_text()
    assert f"20 of {len(more)} rows of the runs table" in source and "another-" not in source
