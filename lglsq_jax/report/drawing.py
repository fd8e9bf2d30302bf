"""How every figure looks: one palette, one size of letters, and PNG bytes at the end."""

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#777777", "#222222"
WIDTH = 440
"""CSS pixels of a figure: as wide as a telephone, or half a page."""
_INCHES, _DOTS = WIDTH / 96, 168

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "text.color": BLACK,
    "axes.labelcolor": BLACK,
    "xtick.color": BLACK,
    "ytick.color": BLACK,
    "figure.facecolor": "white",
    "axes.formatter.useoffset": False,
}


@contextlib.contextmanager
def figure(height: float) -> Iterator["Figure"]:
    """Gives a figure of the page's width and ``height`` CSS pixels; draw in it, then call ``png`` before leaving."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):  # pyright: ignore[reportArgumentType]
        yield Figure(figsize=(_INCHES, height / 96), dpi=_DOTS, layout="constrained")


def stack(drawn: "Figure", count: int, *, gap: float, bottom: float, share_x: bool = False) -> np.ndarray:
    """Returns ``count`` axes below one another, with margins in CSS pixels.

    For figures that a page has many of: letting Matplotlib find the margins takes as long again as drawing.
    """
    drawn.set_layout_engine("none")
    height, left, top = 96 * drawn.get_figheight(), 58, 24
    each = (height - bottom - top - (count - 1) * gap) / count
    space = {"left": left / WIDTH, "right": 1 - 8 / WIDTH, "bottom": bottom / height, "top": 1 - top / height}
    return drawn.subplots(count, 1, squeeze=False, sharex=share_x, gridspec_kw={**space, "hspace": gap / each})[:, 0]


def png(drawn: "Figure") -> bytes:
    """Returns a figure as a PNG of at most 128 colours, which a chart does not exceed visibly."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return encoded(pixels.quantize(128, dither=Image.Dither.NONE))


def encoded(image) -> bytes:
    """Returns a Pillow image as PNG bytes."""
    written = io.BytesIO()
    image.save(written, "PNG", optimize=True)
    return written.getvalue()


def photo(image: np.ndarray, smallest: int = 112) -> bytes:
    """Returns a uint8 image [h w c] as a PNG of at least ``smallest`` pixels a side, its pixels as squares."""
    from PIL import Image

    shown = image if image.shape[-1] == 3 else image[..., 0]
    drawn = Image.fromarray(np.ascontiguousarray(shown))
    times = max(1, -(-smallest // min(drawn.size)))
    return encoded(drawn.resize((drawn.width * times, drawn.height * times), Image.Resampling.NEAREST))


def whole_numbers(axes: "Axes", axis: str = "x") -> None:
    """Ticks at whole numbers alone, with commas between thousands."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    chosen = axes.xaxis if axis == "x" else axes.yaxis
    chosen.set_major_locator(MaxNLocator(nbins=5, integer=True))
    chosen.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
