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


#: Operators that TeX sets as symbols, without space around them: / | ∂ ∇ ∞
_TIGHT = re.compile(r'<mo(?: stretchy="false")?>(&#x(?:0002F|0007C|02202|02207|0221E);)</mo>')
#: A minus after an opening bracket, an equals sign or a comma, or at the beginning.
_SIGN = re.compile(r"((?:<mo[^>]*>(?:&#x0003D;|&#x00028;|&#x0002C;|[\[(])</mo>|<mrow>))<mo>(&#x02212;)</mo>")


def mathml(latex: str, display: str) -> str:
    """The formula as a `math` element; `display` is "inline" or "block"."""
    text = convert(latex, display=display)
    text = re.sub(r'<mi mathvariant="((?!normal)[^"]+)">([^<]+)</mi>', _styled, text)
    text = _TIGHT.sub(r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>', text)
    return _SIGN.sub(r'\1<mo form="prefix" lspace="0" rspace="0">\2</mo>', text)


def parts(latex: str) -> list[str]:
    """The formulas of a line, which \\qquad sets apart: a narrow page puts them below each other."""
    found = [""]
    for piece in re.split(r"(\\qquad)", latex):
        if piece == r"\qquad" and found[-1].count("{") == found[-1].count("}"):
            found.append("")
        else:
            found[-1] += piece
    return [part for part in map(str.strip, found) if part]


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
    formulas = "".join(mathml(part, "block") for part in parts(node.astext()))
    translator.body.append(f'<div class="math">{formulas}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", inline_renderers=(_visit_inline, None), block_renderers=(_visit_block, None))
    return {"parallel_read_safe": True}
