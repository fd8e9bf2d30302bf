"""The report in a browser, where there is one: no error, and no sideways scrolling on a screen or a phone."""

import html
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lglsq_jax.report.write import write_report
from lglsq_jax.training.folder import RunFolder

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium")

# The page alone has no script. In a frame of a given width, since a window of Chromium is never narrower than 500.
FRAME = """<!doctype html><title>frame</title><iframe id="page" style="width:{width}px;height:900px;border:0"
srcdoc="{page}"></iframe><script>
document.getElementById("page").onload = function () {{
  const root = this.contentDocument.documentElement;
  document.title = "width " + root.clientWidth + " scroll " + root.scrollWidth;
}};</script>"""


def opened(file: Path, folder: Path) -> tuple[str, list[str]]:
    """Returns the page after its scripts have run, and what the browser's console said."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr", "--window-size=1400,1000", "--timeout=20000", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(folder)})
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def framed(page: str, width: int, folder: Path) -> Path:
    file = folder / f"frame-{width}.html"
    file.write_text(FRAME.format(page=html.escape(page), width=width))
    return file


def widths(dom: str) -> tuple[int, int]:
    found = re.search(r"<title>width (\d+) scroll (\d+)", dom)
    assert found, dom[:300]
    return int(found[1]), int(found[2])


@pytest.fixture(scope="module")
def page(finished_run, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    shutil.copytree(finished_run, run)
    write_report(*RunFolder.existing(run))
    return run / "report" / "report.html"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_the_report_fits_the_window_and_says_nothing_on_the_console(width, page, tmp_path):
    dom, console = opened(framed(page.read_text(), width, tmp_path), tmp_path)
    inner, scroll = widths(dom)
    assert width - 20 <= inner <= width and scroll <= inner
    assert console == []


@pytest.mark.slow
def test_the_report_by_itself_is_whole(page, tmp_path):
    dom, console = opened(page, tmp_path)
    assert console == [] and dom.rstrip().endswith("</html>") and 'id="making"' in dom


def test_what_does_not_fit_and_what_goes_wrong_is_seen(tmp_path):
    bad = '<p style="width:600px">wide</p><img src="data:,"><script>undefined.name</script>'
    dom, console = opened(framed(bad, 400, tmp_path), tmp_path)
    assert widths(dom)[1] >= 600
    assert len(console) == 1 and "TypeError" in console[0]
