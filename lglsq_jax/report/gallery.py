"""The pictures of a page: embedded in it, and kept by name for files of their own."""

from .drawing import WIDTH
from .html import Content, Html, element, picture


class Gallery:
    """Collects PNGs as a page is written.

    Attributes:
        files: PNG bytes by file name.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}

    def chart(self, name: str, png: bytes, alt: str, caption: Content) -> Html:
        """Returns a figure as wide as a column of the page."""
        self.files[f"{name}.png"] = png
        return picture(png, alt, caption, width=WIDTH, class_="chart")

    def photo(self, name: str, png: bytes, alt: str, caption: Content) -> Html:
        """Returns a small figure of an image of the data set."""
        self.files[f"{name}.png"] = png
        return picture(png, alt, caption, width=112, class_="photo")


def columns(*figures: Html) -> Html:
    """Returns figures side by side where there is room, below one another where not."""
    return element("div", *figures, class_="columns")
