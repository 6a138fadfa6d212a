"""A graph without cycles as text and as SVG: each node stands below (or right of) all that it was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

Nodes = Mapping[str, Sequence[str]]
"""The lines of each node, by its name; the first is its title."""
Edges = Sequence[tuple[str, str, str]]
"""From, to, and the word for it."""

_CHARACTER, _LINE, _PADDING, _GAP, _BETWEEN = 7.2, 17, 10, 150, 24
_COLOURS = {
    "Data": "#e8eaed",
    "Dataset": "#d2e3fc",
    "TrainingJob": "#feefc3",
    "Artifact": "#e8eaed",
    "ModelVersion": "#ceead6",
    "InferenceService": "#fad2cf",
}


def ranks(nodes: Nodes, edges: Edges) -> dict[str, int]:
    """How far each node is from what was made of nothing: the length of the longest way there. Nodes of a cycle, which
    no lineage has, end at the number of nodes."""
    found = dict.fromkeys(nodes, 0)
    for _ in nodes:
        for source, target, _how in edges:
            found[target] = min(max(found[target], found[source] + 1), len(nodes))
    return found


def text(nodes: Nodes, edges: Edges) -> str:
    """A tree from each node that nothing was made of yet back to its data. A node that stands above already is named
    again, and not told again."""
    sources: dict[str, list[tuple[str, str]]] = {}
    for source, target, how in edges:
        sources.setdefault(target, []).append((source, how))
    used = {source for source, _, _ in edges}
    lines: list[str] = []
    told: set[str] = set()

    def tell(name: str, first: str, rest: str, how: str) -> None:
        title, *more = nodes[name]
        again = name in told
        told.add(name)
        label = f"{how} " if how else ""
        lines.append(f"{first}{label}{title}" + (" (see above)" if again else ""))
        below = [] if again else sources.get(name, [])
        if not again:
            bar = "│ " if below else "  "
            lines.extend(f"{rest}{bar}{one}" for one in more)
        for index, (source, word) in enumerate(below):
            last = index == len(below) - 1
            tell(source, f"{rest}{'└─' if last else '├─'} ", f"{rest}{'   ' if last else '│  '}", word)

    for name in sorted(nodes):
        if name not in used:
            tell(name, "", "", "")
    return "\n".join(lines)


def svg(nodes: Nodes, edges: Edges) -> str:
    """From left to right, one column to each rank."""
    columns: dict[int, list[str]] = {}
    for name, rank in sorted(ranks(nodes, edges).items(), key=lambda one: (one[1], one[0])):
        columns.setdefault(rank, []).append(name)
    sizes = {
        name: (max(map(len, lines)) * _CHARACTER + 2 * _PADDING, len(lines) * _LINE + 2 * _PADDING)
        for name, lines in nodes.items()
    }
    places: dict[str, tuple[float, float]] = {}
    x = height = float(_BETWEEN)
    for _, names in sorted(columns.items()):
        y = float(_BETWEEN)
        for name in names:
            places[name] = (x, y)
            y += sizes[name][1] + _BETWEEN
        height = max(height, y)
        x += max(sizes[name][0] for name in names) + _GAP
    width = max(x - _GAP + _BETWEEN, 2 * _BETWEEN)
    drawn = [_edge(places, sizes, *edge) for edge in edges] + [
        _box(places[name], sizes[name], lines) for name, lines in nodes.items()
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" font-family="monospace" font-size="12">\n'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#5f6368"/></marker></defs>\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _box(place: tuple[float, float], size: tuple[float, float], lines: Sequence[str]) -> str:
    (x, y), (width, height) = place, size
    fill = _COLOURS.get(lines[0].partition(" ")[0], "#ffffff")
    told = "".join(
        f'<text x="{x + _PADDING:.1f}" y="{y + _PADDING + (index + 0.75) * _LINE:.1f}"'
        f"{' font-weight=' + chr(34) + 'bold' + chr(34) if index == 0 else ''}>{escape(line)}</text>"
        for index, line in enumerate(lines)
    )
    return (
        f'<g><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6" fill="{fill}"'
        f' stroke="#5f6368"/>{told}</g>'
    )


def _edge(
    places: Mapping[str, tuple[float, float]],
    sizes: Mapping[str, tuple[float, float]],
    source: str,
    target: str,
    how: str,
) -> str:
    x1, y1 = places[source][0] + sizes[source][0], places[source][1] + sizes[source][1] / 2
    x2, y2 = places[target][0], places[target][1] + sizes[target][1] / 2
    middle = x2 - _GAP / 2
    return (
        f'<path d="M{x1:.1f},{y1:.1f} C{middle:.1f},{y1:.1f} {middle:.1f},{y2:.1f} {x2:.1f},{y2:.1f}" fill="none"'
        ' stroke="#5f6368" marker-end="url(#arrow)"/>'
        f'<text x="{x2 - 12:.1f}" y="{y2 - 6:.1f}" text-anchor="end" fill="#5f6368">{escape(how)}</text>'
    )
