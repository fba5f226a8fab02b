"""Text of SVG pictures, drawn the same everywhere: on white paper, with fonts that every system has."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = ["box", "document", "line", "text"]

INK, SOFT = "#1f2726", "#5a6460"


def text(
    x: float, y: float, words: str, *, size: float = 13, anchor: str = "start", fill: str = INK, bold: bool = False, extra: str = ""
) -> str:
    """Words with their base line at y; ``anchor``: start, middle or end of them is at x."""
    look = f'font-size="{size:g}" text-anchor="{anchor}" fill="{fill}"' + (' font-weight="600"' if bold else "")
    return f'<text x="{x:g}" y="{y:g}" {look}{extra}>{escape(words)}</text>'


def box(
    x: float, y: float, width: float, height: float, *, fill: str, stroke: str = "none", radius: float = 7, extra: str = ""
) -> str:
    """A rectangle."""
    size = f'width="{width:g}" height="{height:g}" rx="{radius:g}"'
    return f'<rect x="{x:g}" y="{y:g}" {size} fill="{fill}" stroke="{stroke}"{extra}/>'


def line(points: Iterable[tuple[float, float]], *, stroke: str = SOFT, width: float = 1.5, arrow: str = "") -> str:
    """Straight pieces; ``arrow``: "end", "both" or none."""
    heads = {"end": ' marker-end="url(#head)"', "both": ' marker-start="url(#head)" marker-end="url(#head)"', "": ""}[arrow]
    where = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{where}" fill="none" stroke="{stroke}" stroke-width="{width:g}"{heads}/>'


def document(width: int, height: int, title: str, parts: Iterable[str], style: str = "") -> str:
    """A whole picture; ``title`` is what a screen reader says."""
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif">',
        f"<title>{escape(title)}</title>",
        f'<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6.5" markerHeight="6.5" '
        f'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{SOFT}"/></marker></defs>',
        *([f"<style>{style}</style>"] if style else []),
        box(0, 0, width, height, fill="#ffffff", radius=0),
        *parts,
        "</svg>",
        "",
    ])
