"""A small kit for drawing figures as SVG: one palette, one font, one arrow.

A chapter's `images/chNN/figures.py` draws its figures like this:

    from images.kit import Figure, figure

    @figure("tokens")                      # writes images/chNN/tokens.svg
    def tokens():
        f = Figure(720, 160)
        f.box(20, 40, 120, 48, "the cat", color="blue")
        f.arrow(140, 64, 200, 64, "encode")
        return f

`python course.py figures` calls every such function. Coordinates are pixels, y grows downwards. The colors are Okabe and Ito's
(2008), which colour-blind readers can tell apart; a figure brings its own light card, so it also reads on a dark page.
"""

from collections.abc import Callable
from html import escape
from pathlib import Path

INK, MUTED, PAPER = "#1f2933", "#52606d", "#fcfbf7"
COLORS = {  # name: (fill, edge); the fill is light enough for INK on top of it, the edge dark enough on PAPER
    "blue": ("#cfe3f3", "#0b5d94"),
    "orange": ("#fbe3b3", "#a86a00"),
    "green": ("#c9ece0", "#00735a"),
    "red": ("#f8d5c2", "#b04a00"),
    "purple": ("#f0d6e6", "#94406f"),
    "sky": ("#dff1fb", "#2d7fa8"),
    "yellow": ("#faf5bd", "#80750a"),
    "gray": ("#e4e7eb", "#52606d"),
    "white": ("#ffffff", "#52606d"),
    "none": ("none", "none"),
}
FONT = "Verdana, 'DejaVu Sans', Geneva, sans-serif"
MONO = "'DejaVu Sans Mono', Menlo, Consolas, monospace"
FIGURES: dict[str, Callable[[], "Figure"]] = {}


def figure(name: str):
    """Register a function that returns a `Figure`, to be written as `<name>.svg` beside its file."""

    def register(draw):
        FIGURES[str(Path(draw.__code__.co_filename).with_name(f"{name}.svg"))] = draw
        return draw

    return register


def number(value: float) -> str:
    """A coordinate with at most one decimal, the same text on every machine."""
    return f"{round(value, 6):.1f}".removesuffix(".0")  # so that 0.15 is written alike where a sum came out as 0.15000000000000002


class Figure:
    """A drawing `width` by `height` pixels; every method adds one thing and returns nothing."""

    def __init__(self, width: int, height: int):
        self.width, self.height, self.parts = width, height, []

    def _add(self, tag: str, body: str | None = None, **attributes) -> None:
        pairs = (
            f'{k.replace("__", ":").replace("_", "-")}="{number(v) if isinstance(v, (int, float)) else escape(v)}"'
            for k, v in attributes.items()
            if v is not None
        )
        self.parts.append(f"<{tag} {' '.join(pairs)}" + ("/>" if body is None else f">{body}</{tag}>"))

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 15,
        color: str = INK,
        anchor: str = "middle",
        bold: bool = False,
        mono: bool = False,
        italic: bool = False,
    ) -> None:
        """Text whose middle (or `anchor` = "start", "end") is at x and whose vertical center is at y; `\\n` breaks a line."""
        color = COLORS[color][1] if color in COLORS else color
        lines = text.split("\n")
        for i, line in enumerate(lines):
            self._add(
                "text",
                escape(line, quote=False),
                x=x,
                y=y + (i - (len(lines) - 1) / 2) * size * 1.3 + size * 0.36,
                font_size=size,
                fill=color,
                text_anchor=anchor,
                font_weight="bold" if bold else None,
                font_style="italic" if italic else None,
                font_family=MONO if mono else None,
                xml__space="preserve",
            )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        text: str = "",
        color: str = "blue",
        size: float = 15,
        bold: bool = False,
        mono: bool = False,
        dashed: bool = False,
        radius: float = 7,
        edge: float = 1.6,
    ) -> None:
        """A rounded rectangle with its top left corner at (x, y) and `text` in its middle."""
        fill, line = COLORS[color]
        self._add(
            "rect",
            x=x,
            y=y,
            width=width,
            height=height,
            rx=radius,
            fill=fill,
            stroke=line,
            stroke_width=edge,
            stroke_dasharray="5 4" if dashed else None,
        )
        if text:
            self.text(x + width / 2, y + height / 2, text, size=size, bold=bold, mono=mono)

    def line(self, *points: float, color: str = INK, width: float = 1.8, dashed: bool = False) -> None:
        """A line through x1, y1, x2, y2, ..."""
        self._path(points, color, width, dashed, head=False)

    def arrow(
        self,
        *points: float,
        label: str = "",
        color: str = INK,
        width: float = 1.8,
        dashed: bool = False,
        size: float = 13,
        above: float = 11,
    ) -> None:
        """An arrow through x1, y1, x2, y2, ...; `label` stands `above` pixels over the middle of its first stretch."""
        self._path(points, color, width, dashed, head=True)
        if label:
            self.text((points[0] + points[2]) / 2, (points[1] + points[3]) / 2 - above, label, size=size, color=MUTED)

    def curve(
        self,
        x1: float,
        y1: float,
        x2: float,
        y2: float,
        bend: float = 40,
        color: str = INK,
        width: float = 1.8,
        head: bool = True,
        opacity: float = 1.0,
    ) -> None:
        """A curved arrow whose middle is lifted by `bend` pixels (negative: lowered)."""
        color = COLORS[color][1] if color in COLORS else color
        middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2 - 2 * bend
        self._add(
            "path",
            d=f"M{number(x1)} {number(y1)} Q{number(middle_x)} {number(middle_y)} {number(x2)} {number(y2)}",
            fill="none",
            stroke=color,
            stroke_width=width,
            opacity=f"{opacity:.2f}",
        )
        if head:
            self._head(middle_x, middle_y, x2, y2, color, width, opacity)

    def _path(self, points, color, width, dashed, head) -> None:
        if len(points) < 4 or len(points) % 2:
            raise ValueError(f"a line needs x and y of at least two points, got {len(points)} numbers; pass x1, y1, x2, y2, ...")
        color = COLORS[color][1] if color in COLORS else color
        joined = " ".join(f"{number(x)},{number(y)}" for x, y in zip(points[::2], points[1::2], strict=True))
        self._add(
            "polyline",
            points=joined,
            fill="none",
            stroke=color,
            stroke_width=width,
            stroke_linejoin="round",
            stroke_dasharray="6 5" if dashed else None,
        )
        if head:
            self._head(*points[-4:], color, width)

    def _head(self, x1, y1, x2, y2, color, width, opacity=1.0) -> None:
        length = max(((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5, 1e-9)
        ux, uy, size = (x2 - x1) / length, (y2 - y1) / length, 5 + 2.2 * width
        corners = [(x2, y2)] + [(x2 - size * ux + s * size * 0.5 * uy, y2 - size * uy - s * size * 0.5 * ux) for s in (1, -1)]
        self._add(
            "polygon",
            points=" ".join(f"{number(x)},{number(y)}" for x, y in corners),
            fill=color,
            opacity=f"{opacity:.2f}" if opacity < 1 else None,
        )

    def circle(self, x: float, y: float, radius: float, text: str = "", color: str = "blue", size: float = 14) -> None:
        """A circle around (x, y) with `text` in it."""
        fill, line = COLORS[color]
        self._add("circle", cx=x, cy=y, r=radius, fill=fill, stroke=line, stroke_width=1.6)
        if text:
            self.text(x, y, text, size=size)

    def tokens(
        self,
        x: float,
        y: float,
        words: list[str],
        colors: list[str] | str = "blue",
        height: float = 34,
        size: float = 15,
        gap: float = 6,
        width: float | None = None,
    ) -> list[float]:
        """A row of boxes in a monospaced font, each as wide as its word (or `width`); returns the x of each box's middle."""
        middles = []
        for i, word in enumerate(words):
            w = width or len(word) * size * 0.61 + 16
            self.box(x, y, w, height, word, color=colors if isinstance(colors, str) else colors[i], size=size, mono=True, radius=5)
            middles.append(x + w / 2)
            x += w + gap
        return middles

    def grid(
        self,
        x: float,
        y: float,
        rows: list[list],
        cell: float = 40,
        height: float | None = None,
        shade: str | None = "blue",
        colors: list[list[str]] | None = None,
        size: float = 13,
        top: float | None = None,
        format: str = "{}",
    ) -> None:
        """A matrix of cells: numbers are shaded by value up to `top` (or the largest), or `colors` names each cell's color."""
        height = height or cell
        numeric = [v for row in rows for v in row if isinstance(v, (int, float))]
        top = top if top is not None else max((abs(v) for v in numeric), default=1) or 1
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                at = (x + j * cell, y + i * height, cell, height)
                self.box(*at, color=colors[i][j] if colors else "white", radius=0, edge=1)
                if not colors and shade and isinstance(value, (int, float)):
                    self._add(
                        "rect",
                        x=at[0],
                        y=at[1],
                        width=cell,
                        height=height,
                        fill=COLORS[shade][1],
                        opacity=f"{min(abs(value) / top, 1) * 0.55:.2f}",
                    )
                label = format.format(value) if isinstance(value, (int, float)) else str(value)
                self.text(at[0] + cell / 2, at[1] + height / 2, label, size=size)

    def bars(
        self,
        x: float,
        y: float,
        values: list[float],
        labels: list[str] | None = None,
        width: float = 34,
        gap: float = 10,
        height: float = 120,
        top: float | None = None,
        color: str | list[str] = "blue",
        format: str = "{:.2f}",
        size: float = 12,
    ) -> None:
        """Bars standing on the line y; the tallest possible value `top` is `height` pixels high."""
        top = top or max(values)
        for i, value in enumerate(values):
            left, tall = x + i * (width + gap), height * value / top
            fill, line = COLORS[color if isinstance(color, str) else color[i]]
            self._add("rect", x=left, y=y - tall, width=width, height=max(tall, 0.5), fill=fill, stroke=line, stroke_width=1.4)
            if format:
                self.text(left + width / 2, y - tall - 10, format.format(value), size=size)
            if labels:
                self.text(left + width / 2, y + 14, labels[i], size=size, mono=True)
        self.line(x - 6, y, x + len(values) * (width + gap) - gap + 6, y, width=1.4)

    def brace(self, x1: float, x2: float, y: float, label: str = "", below: bool = True, size: float = 13) -> None:
        """A bracket from x1 to x2 at height y with a label under (or over) it."""
        step = 8 if below else -8
        self.line(x1, y, x1, y + step, x2, y + step, x2, y, color=MUTED, width=1.4)
        if label:
            self.text((x1 + x2) / 2, y + step * 2.6, label, size=size, color=MUTED)

    def svg(self) -> str:
        """The whole drawing as SVG text, the same bytes on every machine."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" font-family="{FONT}">'
        )
        card = f'<rect width="{self.width}" height="{self.height}" rx="10" fill="{PAPER}"/>'
        return "\n".join([head, card, *self.parts, "</svg>"]) + "\n"


def plot_style() -> None:
    """Give matplotlib the same palette, paper and font; call once before plotting."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "figure.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": MUTED,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e4e7eb",
            "figure.dpi": 110,
            "figure.figsize": (7.2, 3.4),
            "font.size": 10,
            "lines.linewidth": 2,
            "svg.hashsalt": "from-bytes-to-chat",
            "axes.prop_cycle": plt.cycler(
                color=[COLORS[c][1] for c in ("blue", "orange", "green", "red", "purple", "sky")],
                linestyle=["-", "--", "-.", ":", "-", "--"],
            ),
        }
    )
