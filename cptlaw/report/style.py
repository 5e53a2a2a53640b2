"""How a page looks: one palette for HTML and figures, in light, dark and print.

Figures are drawn in the light colours. In the SVG each of them becomes a CSS variable, so that one drawing serves
both themes; text stays text and takes the page's font.
"""

import functools
import re

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

# name -> (light, dark). Okabe and Ito's colours, darkened or lightened where contrast with the paper asks for it.
COLOURS = {
    "paper": ("#fefefe", "#14171c"),
    "ink": ("#1b1f24", "#e8e6e1"),
    "muted": ("#5f6770", "#9aa3ad"),
    "rule": ("#dadde1", "#333a43"),
    "panel": ("#f4f5f7", "#1c2128"),
    "accent": ("#0072b2", "#56b4e9"),
    "good": ("#00795a", "#2fc297"),
    "bad": ("#b84c00", "#f08a3c"),
    "size0": ("#0173b3", "#57b5ea"),
    "size1": ("#d55e00", "#f08b3d"),
    "size2": ("#009e74", "#2fc398"),
    "size3": ("#cc79a7", "#e39cc4"),
    "size4": ("#8a6d00", "#f0e442"),
    # Token counts are ordered, so their colours are: one hue, more of it with more tokens.
    "tokens0": ("#a5bfd9", "#4d6a8a"),
    "tokens1": ("#74a0c8", "#5c82aa"),
    "tokens2": ("#4680b4", "#74a3d1"),
    "tokens3": ("#1f5f98", "#93bfe6"),
    "tokens4": ("#0b3c68", "#cfe5f8"),
}
INK, MUTED, RULE, PAPER, ACCENT = (COLOURS[name][0] for name in ("ink", "muted", "rule", "paper", "accent"))
GOOD, BAD = COLOURS["good"][0], COLOURS["bad"][0]
SIZES = [COLOURS[f"size{i}"][0] for i in range(5)]
TOKENS = [COLOURS[f"tokens{i}"][0] for i in range(5)]

# Fonts of scripts that matplotlib's own lacks, by the systems that have them.
OTHER_SCRIPTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "Droid Sans Fallback", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Malgun Gothic",
    "Arial Unicode MS",
)  # fmt: skip

RC = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so layouts are the same everywhere
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "text.color": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
}


@functools.cache
def fonts() -> list[str]:
    """The fonts of figures: matplotlib's own, and those of other scripts that are installed."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in OTHER_SCRIPTS if name in installed)]


@functools.cache
def _drawable(letter: str) -> bool:
    """Whether one of `fonts` has the letter."""
    files = (font_manager.findfont(name, fallback_to_default=False) for name in fonts())
    return letter.isspace() or any(font_manager.get_font(file).get_char_index(ord(letter)) for file in files)


def spell(figure: Figure) -> None:
    """Writes letters that no font here has by their code points, [4EE3]: a picture would show a box for each."""
    for words in figure.findobj(Text):
        assert isinstance(words, Text)
        if not all(map(_drawable, text := words.get_text())):
            words.set_text("".join(one if _drawable(one) else f"[{ord(one):X}]" for one in text))


def sequence(count: int) -> list[str]:
    """Colours of `count` (at most 5) ordered levels, the last the strongest."""
    return [TOKENS[4 - round(4 * (count - 1 - i) / max(count - 1, 1))] for i in range(count)]


def inline(svg: str, name: str, label: str) -> str:
    """An SVG document as an element of a page: themed, labelled, with ids that are its own."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\b(id|aria-labelledby)="([^"]*)"', rf'\1="{name}-\2"', body)
    body = re.sub(r"(url\(|href=\")#", rf"\1#{name}-", body)
    for variable, (light, _) in COLOURS.items():
        body = re.sub(light, f"var(--{variable})", body, flags=re.IGNORECASE)
    # Only the size of matplotlib's font is kept.
    body = re.sub(r"font: ((?:[\w-]+ )*[\d.]+px) [^;\"]*", r"font: \1 var(--sans)", body)
    head = re.search(r"<svg[^>]*>", body)
    assert head is not None
    box = re.search(r'viewBox="0 0 ([\d.]+) [\d.]+"', head.group())
    assert box is not None
    width = f"max-width: {1.36 * float(box.group(1)):.0f}px"  # points to pixels: text is never larger than the page's
    return (
        f'<svg {box.group()} style="{width}" role="img" aria-label="{label}" xmlns:xlink="http://www.w3.org/1999/xlink">'
        + body[head.end() :]
    )


def variables(theme: int) -> str:
    """CSS declarations of the palette: 0 light, 1 dark."""
    return " ".join(f"--{name}: {pair[theme]};" for name, pair in COLOURS.items())


def css() -> str:
    """The page's stylesheet."""
    return f"""
:root {{ color-scheme: light dark; {variables(0)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {variables(1)} }} }}
@media print {{ :root {{ color-scheme: light; {variables(0)} }} }}
{_RULES}"""


_RULES = """
:root { --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.55 var(--sans); }
main { max-width: 62rem; margin: 0 auto; padding: 2.2rem 1.5rem 4rem; }
p, li { max-width: 44rem; }
h1, h2, h3 { line-height: 1.2; text-wrap: balance; margin: 0; }
h2 { font-size: 1.35rem; margin: 3.2rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.8rem 0 .4rem; }
a { color: var(--accent); }
.title { color: var(--muted); font-size: .9rem; margin: 0 0 1.4rem; }
.question { color: var(--muted); font-size: 1.05rem; margin: 0 0 .5rem; max-width: 46rem; text-wrap: pretty; }
h1 { font-size: clamp(1.7rem, 4.6vw, 2.6rem); letter-spacing: -.015em; }
.lead { font-size: 1.08rem; margin: .7rem 0 0; }
.note, figcaption, .table-note { color: var(--muted); font-size: .88rem; }
.interval { color: var(--accent); font-weight: 600; margin: .35rem 0 0; }
.strip { position: relative; height: 2.9rem; margin: 1rem 0 .2rem; max-width: 46rem; }
.strip .track { position: absolute; left: 0; right: 0; top: .35rem; height: .7rem; background: var(--panel);
  border: 1px solid var(--rule); border-radius: .35rem; }
.strip .span { position: absolute; top: .35rem; height: .7rem; background: var(--accent);
  opacity: .38; border-radius: .35rem; }
.strip .mark { position: absolute; top: .05rem; width: .3rem; height: 1.3rem; margin-left: -.15rem;
  background: var(--accent); border-radius: .15rem; }
.strip .ends { position: absolute; left: 0; right: 0; top: 1.35rem; display: flex; justify-content: space-between;
  color: var(--muted); font-size: .82rem; }
.scroll { overflow-x: auto; margin: .9rem 0 .3rem; }
table { border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--muted); font-size: .82rem; vertical-align: bottom; }
th, td { padding: .36rem 1.15rem .36rem 0; border-bottom: 1px solid var(--rule); }
th:last-child, td:last-child { padding-right: 0; }
td.n, th.n { text-align: right; white-space: nowrap; }
tr.us td { font-weight: 650; }
.yes { color: var(--good); font-weight: 650; } .no { color: var(--bad); font-weight: 650; }
figure { margin: 1.2rem 0 1.6rem; }
figure svg { display: block; width: 100%; height: auto; }
figure .narrow { display: none; }
figcaption { margin-top: .35rem; max-width: 46rem; }
.warnings li { margin: .25rem 0; }
.controls { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr));
  gap: .9rem 1.8rem; background: var(--panel); border: 1px solid var(--rule); border-radius: .5rem;
  padding: 1rem 1.2rem; margin: 1rem 0; }
.controls div { display: grid; grid-template-columns: 1fr max-content; gap: .15rem .8rem; align-items: end; }
.controls label { font-size: .88rem; color: var(--muted); }
.controls output { font-weight: 650; font-variant-numeric: tabular-nums; }
.controls input { grid-column: 1 / -1; width: 100%; margin: 0; height: 1.6rem; accent-color: var(--accent); }
.controls select, .buttons button { font: inherit; font-size: .92rem; color: var(--ink); background: var(--paper);
  border: 1px solid var(--muted); border-radius: .35rem; padding: .25rem .6rem; }
.controls select { min-width: 0; max-width: 100%; } .controls label:has(+ select) { white-space: nowrap; }
.buttons button { margin: 0 .6rem .4rem 0; cursor: pointer; } .buttons button:disabled { opacity: .5; cursor: default; }
.controls :focus-visible, .buttons :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
#wi-charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); gap: 0 1.8rem; }
.chart { min-width: 0; } .chart svg { display: block; width: 100%; height: auto; }
.chart text { font: 12px var(--sans); fill: var(--ink); } .chart .tick, .chart .axis { fill: var(--muted); }
.chart .end { text-anchor: end; } .chart .middle { text-anchor: middle; }
.chart .grid { stroke: var(--rule); } .chart .mark { stroke: var(--muted); stroke-dasharray: 4 3; }
details { margin: 1rem 0; } summary { cursor: pointer; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1.2rem; font-size: .9rem;
  margin: .6rem 0; }
dt { color: var(--muted); } dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
code { font: .92em ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
details .scroll { max-height: 28rem; overflow: auto; }
details table { font-size: .8rem; }
@media (max-width: 640px) {
  main { padding: 1.3rem 1rem 3rem; }
  figure .wide { display: none; } figure .narrow { display: block; }
  th, td { padding-right: .7rem; }
  .title { margin-bottom: 1rem; }
  /* The tables of the first screens become cards: nothing that matters lies behind a sideways scroll. */
  .cards table, .cards tbody, .cards tr { display: block; } .cards thead { display: none; }
  .cards tr { padding: .5rem 0; border-bottom: 1px solid var(--rule); }
  .cards td, .cards td.n { display: flex; justify-content: space-between; border: 0; padding: .12rem 0;
    text-align: right; white-space: normal; }
  .cards td:first-child { font-weight: 650; } .cards td:empty { display: none; }
  .cards td:not(:first-child)::before { content: attr(data-label); color: var(--muted); text-align: left;
    padding-right: 1rem; }
  dl { grid-template-columns: minmax(0, 1fr); gap: .1rem; } dd { margin-bottom: .5rem; }
}
@media print {
  main { max-width: none; padding: 0; } body { font-size: 10pt; }
  figure, tr, .strip { break-inside: avoid; } h2, h3 { break-after: avoid; }
  figure .wide { display: block; } figure .narrow { display: none; }
  details:not([open]), .controls input, .buttons { display: none; }
  .chart { break-inside: avoid; }
}
"""
