"""Formulas as MathML, which browsers draw themselves: the site needs no script, and none from elsewhere."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

#: First letters of the alphabets of "Mathematical Alphanumeric Symbols": A, a, Α, α.
_ALPHABETS = {
    "bold": (0x1D400, 0x1D41A, 0x1D6A8, 0x1D6C2),
    "bold-italic": (0x1D468, 0x1D482, 0x1D71C, 0x1D736),
    "sans-serif": (0x1D5A0, 0x1D5BA),
}
_FIRST = ((ord("A"), 26), (ord("a"), 26), (0x391, 25), (0x3B1, 25))


def mathml(latex: str, display: str) -> str:
    """The formula as a `math` element; `display` is "inline" or "block"."""
    text = convert(latex, display=display)
    return re.sub(r'<mi mathvariant="((?!normal)[^"]+)">([^<]+)</mi>', _styled, text)


def _styled(match: re.Match[str]) -> str:
    """Browsers know the attribute no more; the letters themselves are bold or without serifs."""
    variant, letter = match[1], re.sub(r"&#x(\w+);", lambda code: chr(int(code[1], 16)), match[2])
    for (first, count), target in zip(_FIRST, _ALPHABETS.get(variant, ()), strict=False):
        if len(letter) == 1 and 0 <= ord(letter) - first < count:
            return f"<mi>{chr(target + ord(letter) - first)}</mi>"
    raise ValueError(f"{variant} {letter!r} in a formula; add its alphabet to docs/_ext/formulas.py")


def _visit_inline(translator: Any, node: Any) -> None:
    translator.body.append(f'<span class="math">{mathml(node.astext(), "inline")}</span>')
    raise nodes.SkipNode


def _visit_block(translator: Any, node: Any) -> None:
    translator.body.append(f'<div class="math">{mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", inline_renderers=(_visit_inline, None), block_renderers=(_visit_block, None))
    return {"parallel_read_safe": True}
