"""The page of a restoration study: verdicts, PSNR by type, learning curves, the probe, and restored pictures."""

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cptlaw import atomic
from cptlaw.errors import UserError
from cptlaw.report import html, style
from cptlaw.report.figures.drawing import Drawing, subplots
from cptlaw.report.html import Markup, tag
from cptlaw.restoration import findings, networks, training
from cptlaw.restoration.degradations import to_bytes
from cptlaw.restoration.findings import Difference, Payback
from cptlaw.restoration.quality import psnr, ssim
from cptlaw.restoration.settings import ARMS, Study
from cptlaw.restoration.study import OVERALL, Bench, Done, name_of
from cptlaw.restoration.training import Phase

SHOWN = {"scratch": "scratch", "scratch_longer": "scratch, equal compute", "dcpt": "DCPT"}
_CSS = (
    ".shots td{padding:2px 4px;text-align:center}.shots img{width:130px;max-width:none;display:block;margin:auto;"
    "image-rendering:pixelated}.shots td span{font-size:.8em}"
)


def write(path: Path, bench: Bench, done: list[Done], table: pd.DataFrame, workdir: Path, command: str = "") -> Path:
    """Writes the page and, in the folder NAME_figures beside it, its figures as PNG, SVG and CSV."""
    study, folder = bench.study, path.parent / f"{path.stem}_figures"
    gaps = findings.differences(done, bench.test.labels)
    atomic.write_text(
        path.parent / "differences.csv",
        pd.DataFrame([{"other": g.other, "dB": g.mean, "low": g.low, "high": g.high} for g in gaps]).to_csv(
            index=False
        ),
    )
    try:
        paid: Payback | str = findings.payback(study, table)
    except UserError as error:
        paid = f"No learning curve was fitted: {error}."
    body = [
        tag("p", study.name, class_="title"),
        tag("p", "What does a step of degradation classification pre-training buy?", class_="question"),
        tag("h1", _headline(gaps)),
        *_too_short(bench, done),
        tag("p", paid.words if isinstance(paid, Payback) else paid, class_="lead"),
        _differences(gaps, study),
        tag("h2", "PSNR by degradation type"),
        _by_kind(bench, done),
        html.figure(curves(study, table, paid if isinstance(paid, Payback) else None), folder),
        tag("h2", "Does the network tell the types apart?"),
        _probe(done),
        tag("h2", "Restored pictures"),
        _pictures(bench, done, workdir),
        tag("h2", "Where this comes from"),
        html.definitions(_facts(bench, command)),
    ]
    document = html.document(study.name, style.css() + _CSS, Markup("\n".join(body)))
    atomic.write_text(path, document)
    return path


def _headline(gaps: list[Difference]) -> str:
    said = {gap.other: gap.words() for gap in gaps}
    first = [said[other] for other in ("scratch", "scratch_longer") if other in said]
    return " ".join(first or list(said.values()) or ["No arm to compare DCPT with."])


def _too_short(bench: Bench, done: list[Done]) -> list[Markup]:
    """What comes before any verdict where training has not even reached the input's PSNR."""
    untouched = bench.by_kind(np.array([psnr(x, y) for x, y in zip(bench.test.degraded, bench.test.clean)]))[OVERALL]
    best = max(bench.by_kind(one.psnr)[OVERALL] for one in done)
    if best > untouched:
        return []
    said = (
        f"No run is better than the untouched input ({best:.2f} and {untouched:.2f} dB): this was too little training, "
        "and the differences say nothing of the method."
    )
    return [tag("p", said, class_="lead")]


def _differences(gaps: list[Difference], study: Study) -> Markup:
    rows = [
        [ARMS[gap.other], f"{gap.mean:+.2f}", f"{gap.low:+.2f} to {gap.high:+.2f}",
         ", ".join(f"{x:+.2f}" for x in gap.seeds)]
        for gap in gaps
    ]  # fmt: skip
    note = (
        f"PSNR of DCPT less that of the other arm, in dB, paired by seed and test patch; {findings.LEVEL:.0%} "
        f"intervals over {len(study.seeds)} seeds and the patches of the held-out images. They know no other images"
        + ("." if len(study.seeds) > 2 else ", and so few seeds tell little of the next one.")
    )
    table = html.table(["DCPT against", "dB", "interval", "each seed"], rows, cards=True)
    return Markup(table + tag("p", note, class_="table-note"))


def _by_kind(bench: Bench, done: list[Done]) -> Markup:
    kinds = (*bench.study.kinds, OVERALL)
    pairs = list(zip(bench.test.degraded, bench.test.clean))
    inputs = [bench.by_kind(np.array([f(x, y) for x, y in pairs])) for f in (psnr, ssim)]
    rows = [["the input, untouched", *(f"{inputs[0][k]:.2f} / {inputs[1][k]:.3f}" for k in kinds), "", ""]]
    for arm in bench.study.arms:
        of_arm = [one for one in done if one.arm == arm]
        means = [
            pd.DataFrame([bench.by_kind(getattr(one, what)) for one in of_arm]).mean() for what in ("psnr", "ssim")
        ]
        last = of_arm[0].tests[-1]
        cells = [f"{means[0][k]:.2f} / {means[1][k]:.3f}" for k in kinds]
        seconds = np.mean([one.seconds for one in of_arm])
        rows.append([ARMS[arm], *cells, f"{last['flops']:.2e}", f"{seconds:,.0f}"])
    header = ["arm", *(name_of(k).replace("_", " ") for k in kinds), "FLOPs", "seconds"]
    note = (
        "PSNR in dB / SSIM, in RGB, of values clipped and rounded to 8 bits; means over test patches and seeds. An arm "
        "that is below the input has not been trained enough. Equal compute is of counted FLOPs; the seconds are this "
        "machine's."
    )
    return Markup(html.table(header, rows) + tag("p", note, class_="table-note"))


def curves(study: Study, table: pd.DataFrame, paid: Payback | None) -> Drawing:
    """PSNR against fine-tuning steps, and against all compute."""
    rows = table[table["eval"] == OVERALL].assign(psnr=lambda t: -20 * np.log10(t["loss"]))
    unit = study.fine_tune.batch_size * study.fine_tune.crop**2
    rows = rows.assign(compute=rows["tokens"] / unit)
    arms = [arm for arm in study.arms if arm in set(rows["model"])]

    def draw(narrow: bool) -> Figure:
        figure, panels = subplots(2, narrow, 1 if narrow else 2, height=3.2)
        for axes, x in zip(panels, ("step", "compute")):
            for colour, arm in zip(style.SIZES, arms):
                of_arm = rows[rows["model"] == arm]
                for _, one in of_arm.groupby("run"):
                    axes.plot(one[x], one["psnr"], color=colour, lw=0.7, alpha=0.5)
                mean = of_arm.groupby(x)["psnr"].mean()
                axes.plot(mean.index, mean, color=colour, label=ARMS[arm], marker="o", ms=3)
            axes.set_ylabel("PSNR, mean of types (dB)")
        if paid is not None:
            span = np.geomspace(rows.loc[rows["step"] > 0, "compute"].min(), rows["compute"].max(), 80)
            for name, fit in paid.fits.items():
                loss = fit.params["E"] + fit.params["A"] * (span * unit / 1e9) ** -fit.params["a"]
                colour = style.SIZES[arms.index("dcpt" if name == "dcpt" else _scratch(arms))]
                panels[1].plot(span, -20 * np.log10(loss), color=colour, ls=":")
        panels[0].set_xlabel("steps of fine-tuning")
        panels[1].set_xlabel("all compute, in steps of fine-tuning")
        panels[1 if narrow else 0].legend(loc="upper left", bbox_to_anchor=(0, -0.18), fontsize="small", ncols=1)
        return figure

    return Drawing(
        "learning_curves",
        "Learning curves",
        "Thick lines are means, thin ones seeds; dotted ones the fitted learning curves. On the right pre-training is "
        "counted.",
        "PSNR of each arm against steps of fine-tuning, and against all compute.",
        rows[["run", "model", "seed", "step", "compute", "psnr"]],
        draw,
    )


def _scratch(arms: list[str]) -> str:
    return "scratch_longer" if "scratch_longer" in arms else "scratch"


def _probe(done: list[Done]) -> Markup:
    rows = [
        [ARMS[one.arm], str(one.seed), *(f"{one.probe[name]:.1%}" for name in one.probe),
         "" if one.classified is None else f"{one.classified:.1%}"]
        for one in done if one.arm != "scratch" or not any(o.arm == "scratch_longer" for o in done)
    ]  # fmt: skip
    names = ["the network's last features" if name == "network" else name for name in done[0].probe]
    note = (
        "Accuracy before fine-tuning of 5 nearest neighbours, split by image, beside what needs no network; and of the "
        "classifier after pre-training, on held-out patches."
    )
    table = html.table(["arm", "seed", *names, "classifier"], rows)
    return Markup(table + tag("p", note, class_="table-note"))


def _pictures(bench: Bench, done: list[Done], workdir: Path) -> Markup:
    """For every type the held-out patch of middling gain: input, what arms made of it, truth."""
    arms = [arm for arm in SHOWN if arm in bench.study.arms]
    seed = bench.study.seeds[0]
    columns = {arm: next(one for one in done if (one.arm, one.seed) == (arm, seed)) for arm in arms}
    chosen = [_median(bench, kind, columns.get("dcpt")) for kind in range(len(bench.study.kinds))]
    inputs, truth = bench.test.degraded[chosen], bench.test.clean[chosen]
    shown = {"input": inputs}
    for arm, one in columns.items():
        of = "scratch_longer" if arm == "scratch" and not (workdir / "runs" / one.id).exists() else arm
        folder = workdir / "runs" / f"{of}-{seed}" / f"network-{int(one.tests[-1]['step'])}"
        network = networks.load(folder, bench.study.network)
        shown[SHOWN[arm]] = training.restored(bench.pair, network, inputs)
    shown["truth"] = truth
    rows = []
    for i, kind in enumerate(bench.study.kinds):
        cells: list[object] = [name_of(kind).replace("_", " ")]
        for name, images in shown.items():
            alt = f"{kind}: {name}"
            said = "" if name == "truth" else f"{psnr(images[i], truth[i]):.2f} dB"
            cells.append(Markup(_picture(images[i], alt) + tag("span", said)))
        rows.append(cells)
    note = "Of each type the test patch on which DCPT gains the median over the input; the first seed."
    table = html.table(["type", *shown], rows)
    return Markup(tag("div", table, class_="shots") + tag("p", note, class_="table-note"))


def _median(bench: Bench, kind: int, of: Done | None) -> int:
    of_kind = np.flatnonzero(bench.test.labels == kind)
    if of is None:
        return int(of_kind[0])
    gain = [of.psnr[i] - psnr(bench.test.degraded[i], bench.test.clean[i]) for i in of_kind]
    return int(of_kind[np.argsort(gain)[len(gain) // 2]])


def _picture(image: np.ndarray, alt: str) -> Markup:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(to_bytes(image)).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return Markup(f'<img src="data:image/png;base64,{data}" alt="{html.text(alt)}">')


def _facts(bench: Bench, command: str) -> dict[str, object]:
    study = bench.study
    flops = networks.flops(study.pair, study.pretrain.crop)
    return {
        "page made by": tag("code", command) if command else "",
        "method": "Hu et al., ICLR 2025, arXiv 2501.15510",
        "network": f"{study.network.kind}, {networks.count_params(study.network):,} parameters; its classifier "
        f"{networks.count_params(study.pair.classifier):,}",
        "pre-training": _length(study.pretrain),
        "fine-tuning": _length(study.fine_tune),
        "a step of pre-training": f"{flops['dcpt'] / flops['fine_tune']:.2f} times the FLOPs of fine-tuning, of a crop",
        "trained on": ", ".join(bench.names["trained on"][:30]),
        "held out": ", ".join(bench.names["held out"][:30]),
        "seeds": ", ".join(map(str, study.seeds)),
    }


def _length(phase: Phase) -> str:
    return f"{phase.steps:,} steps of {phase.batch_size} crops of {phase.crop} pixels"
