"""HTML as text that cannot be forgotten to be escaped: elements take strings, which they escape, and other elements."""

import base64
import html
from collections.abc import Iterable, Sequence

_EMPTY = ("img", "meta", "br")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | Html
"""What an element holds: a plain string is escaped, ``Html`` is taken as it is."""


def element(tag: str, *children: Content, **attributes: object) -> Html:
    """Returns an element. ``class_`` is written ``class``, ``aria_label`` ``aria-label``; True is a bare attribute."""
    written = []
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            written.append(f" {name}")
        elif value is not None and value is not False:
            written.append(f' {name}="{html.escape(str(value))}"')
    start = f"<{tag}{''.join(written)}>"
    return Html(start if tag in _EMPTY else f"{start}{together(*children)}</{tag}>")


def together(*children: Content) -> Html:
    """Returns elements and strings one after the other."""
    return Html("".join(child if isinstance(child, Html) else html.escape(child) for child in children))


def table(
    label: str, head: Sequence[str], rows: Iterable[Sequence[Content]], *, text_columns: int = 1, last_is_total=False
) -> Html:
    """Returns a table in a box of its own that scrolls sideways where the screen is narrow.

    Args:
        label: what it is, for those who hear the page.
        head: of the columns.
        rows: cells; the first of each row is its head.
        text_columns: so many columns from the left hold words, the others numbers.
        last_is_total: set the last row off.
    """

    def classes(column: int) -> str | None:
        return None if column < text_columns else "number"

    rows = list(rows)
    body = []
    for place, row in enumerate(rows):
        cells = [element("th", row[0], scope="row", class_=classes(0))]
        cells += [element("td", cell, class_=classes(column)) for column, cell in enumerate(row[1:], 1)]
        total = last_is_total and place == len(rows) - 1
        body.append(element("tr", *cells, class_="total" if total else None))
    heads = [element("th", name, scope="col", class_=classes(column)) for column, name in enumerate(head)]
    inner = element("table", element("thead", element("tr", *heads)), element("tbody", *body))
    return element("div", inner, class_="scroll", role="region", aria_label=label, tabindex=0)


def picture(png: bytes, alt: str, caption: Content, *, width: int, class_: str | None = None) -> Html:
    """Returns a figure that holds its PNG itself, at most ``width`` CSS pixels wide."""
    pixels = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")  # the header's width and height
    height = round(width * pixels[1] / pixels[0])
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    image = element("img", src=source, alt=alt, width=width, height=height)
    return element("figure", image, element("figcaption", caption), class_=class_, style=f"max-width:{width}px")
