"""MkDocs hook: on a page, `<!-- law: NAME -->` becomes the law's equation, parameters, columns and source."""

import re
from typing import Any

from mkdocs.exceptions import PluginError

from cptlaw import laws

MARK = re.compile(r"<!-- law: (\w+) -->")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fills the marks in."""
    try:
        return MARK.sub(lambda mark: facts(mark[1]), markdown)
    except laws.LawError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error


def facts(name: str) -> str:
    """What a built-in law says of itself, in Markdown."""
    law = laws.example(name)
    options = ", ".join(f"`{option}={value}`" for option, value in laws.options_of(name).items())
    billions = f" ({', '.join(law.billions)} in billions, though tables hold counts)" if law.billions else ""
    lines = [
        f"- fitted: {', '.join(f'`{parameter}`' for parameter in law.names)}",
        f"- reads: {', '.join(f'`{column}`' for column in law.columns)}{billions}",
        *([f"- options: {options}"] if options else []),
        f"- source: {law.source}",
    ]
    return f"**{law.title}**\n\n```text\nL = {law.equation}\n```\n\n" + "\n".join(lines)
