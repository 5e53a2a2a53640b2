"""The few elements a page is made of. Every text is escaped here and nowhere else."""

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cptlaw import atomic
from cptlaw.report.figures import Drawing


class Markup(str):
    """Text that is HTML already."""


NOTHING = Markup("")


def text(value: object) -> Markup:
    """Escaped text; Markup passes."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def tag(name: str, *children: object, **attributes: str) -> Markup:
    """An element; `class_` for class, `aria_label` for aria-label."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{written}>{''.join(text(child) for child in children)}</{name}>")


def table(
    header: Sequence[str], rows: Iterable[Sequence[object]], marked: int | None = None, cards: bool = False
) -> Markup:
    """A table; columns whose cells all begin like numbers are set right.

    Args:
      marked: the row that is ours.
      cards: on a phone each row becomes a card, its first cell the heading.
    """
    rows = [list(row) for row in rows]
    kind = [{"class_": "n"} if all(_numeric(row[i]) for row in rows) else {} for i in range(len(header))]
    head = tag("tr", *(tag("th", name, scope="col", **kind[i]) for i, name in enumerate(header)))
    body = []
    for number, row in enumerate(rows):
        cells = (
            tag("td", cell, **kind[i], **({"data_label": header[i]} if cards else {})) for i, cell in enumerate(row)
        )
        body.append(tag("tr", *cells, **({"class_": "us"} if number == marked else {})))
    outer = {"class_": "scroll cards"} if cards else {"class_": "scroll", "tabindex": "0"}
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), **outer)


def figure(drawing: Drawing, folder: Path, heading: str = "h2", before: Markup = NOTHING) -> Markup:
    """A figure in both widths, under its heading, with its caption and links to its files, which this writes."""
    wide, narrow, files = drawing.render()
    files = files | {"csv": drawing.data.to_csv(index=False).encode()}
    links: list[object] = []
    for kind, content in files.items():
        atomic.write_bytes(folder / f"{drawing.name}.{kind}", content)
        links += [", " if links else " ", tag("a", kind.upper(), href=f"{folder.name}/{drawing.name}.{kind}")]
    shown = tag(
        "figure",
        tag("div", Markup(wide), class_="wide"),
        tag("div", Markup(narrow), class_="narrow"),
        tag("figcaption", drawing.caption, *links),
        id=drawing.name,
    )
    return Markup(tag(heading, drawing.title) + before + shown)


def definitions(pairs: Mapping[str, object]) -> Markup:
    """Terms and what they are; empty ones are left out."""
    shown = [(key, value) for key, value in pairs.items() if value not in ("", None)]
    return tag("dl", *(element for key, value in shown for element in (tag("dt", key), tag("dd", value))))


def document(title: str, css: str, body: Markup, script: str = "") -> str:
    """A whole page. The policy keeps it from fetching anything, whoever opens it, and from running but `script`."""
    allowed = ""
    if script:
        allowed = f"; script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        body = Markup(body + tag("script", Markup(script)))
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        f'img-src data:{allowed}">'
        f"<title>{text(title)}</title><style>{css}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>{body}</main></body></html>\n'


def _numeric(cell: object) -> bool:
    shown = html.unescape(str(cell)) if not isinstance(cell, Markup) else ""
    return not shown or shown[0] in "+-−–0123456789."
