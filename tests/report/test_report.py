"""The report of a run: a page that stands by itself and says what the run's files say."""

import html.parser
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from lglsq_jax.report.html import Html, element
from lglsq_jax.training.folder import RunFolder

EMPTY = ("img", "meta", "br")
SECTIONS = ("accuracy", "training", "layers", "sensitivity", "costs", "confusion", "mistakes", "making")


class Page(html.parser.HTMLParser):
    """Every element and its attributes, the text, and whether tags are closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.text, self.open = [], "", []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data + " "

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def sections(self) -> list[str]:
        return [attributes["id"] for attributes in self.all("section")]


def page_of(run: Path) -> Page:
    return Page((run / "report" / "report.html").read_text())


@pytest.fixture(scope="module")
def copied(finished_run, tmp_path_factory):
    """Copies the finished run, so that a test may take parts away: ``copied(*parts) -> folder``."""

    def copy(*without: str) -> Path:
        folder = tmp_path_factory.mktemp("runs") / "run"
        shutil.copytree(finished_run, folder)
        for part in without:
            place = folder / part
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        return folder

    return copy


@pytest.fixture(scope="module")
def reported(copied) -> tuple[Path, dict]:
    from lglsq_jax.report.write import write_report

    run = copied()
    (run / "report").mkdir()
    (run / "report" / "report.html").write_text("of an earlier time")
    (run / "report" / "layer-gone-values.png").write_bytes(b"of an earlier time")
    (run / "report" / "pictures.json").write_text('["layer-gone-values.png", "../config.json", 3]')
    (run / "report" / "drawn-by-hand.png").write_bytes(b"of the user")
    return run, write_report(*RunFolder.existing(run)).fields


def test_the_page_stands_by_itself(reported):
    run, _ = reported
    page = page_of(run)
    assert page.sections == list(SECTIONS)
    assert [attributes["href"] for attributes in page.all("a")] == [f"#{name}" for name in SECTIONS]
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    for _, attributes in page.elements:
        assert attributes.get("src", "data:").startswith("data:image/png;base64,") or "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
    assert all(len(attributes["alt"]) > 10 and int(attributes["height"]) > 0 for attributes in page.all("img"))
    text = (run / "report" / "report.html").read_text()
    assert "http" not in text.replace(str(run), "") and "url(" not in text and "@import" not in text
    assert {"lang": "en"} in page.all("html") and page.all("title")


def test_the_page_says_what_the_summary_says(reported):
    run, fields = reported
    summary = json.loads((run / "summary.json").read_text())
    text = page_of(run).text
    for network in ("float", "fake_quantized", "integer"):
        assert f"{100 * summary[network]['top1']:.2f} %" in text
        assert f"{summary[network]['bytes']:,}" in text
        assert fields["top1"][network] == summary[network]["top1"]
    assert fields["finished"] and fields["step"] == summary["step"]
    assert fields["predictions"]["top1"] == pytest.approx(summary["integer"]["top1"])
    assert fields["predictions"]["samples"] == 360
    measured = fields["sensitivity"]  # the digits have 360 test images: all of them
    assert measured["samples"] == 360
    assert measured["quantized"]["top1"] == pytest.approx(summary["fake_quantized"]["top1"])
    paths = [layer["path"] for layer in fields["layers"]]
    assert paths == [layer["path"] for layer in measured["layers"]]
    assert paths[0] == "conv1" and paths[-1] == "fc" and len(paths) == 10
    for path in paths:
        assert path in text
    assert all(layer["weights"]["signal_to_noise_db"] > 5 for layer in fields["layers"])
    assert sum(layer["multiply_adds"] for layer in fields["layers"]) > 10**5


def test_the_pictures_are_png_files_and_an_earlier_report_is_gone(reported):
    run, fields = reported
    page = page_of(run)
    assert len(fields["pictures"]) == len(page.all("img"))
    for path in fields["pictures"]:
        with Image.open(path) as image:
            assert image.format == "PNG" and min(image.size) >= 100
    found = {file.name for file in (run / "report").iterdir()}
    names = {Path(path).name for path in fields["pictures"]}
    assert found == {"report.html", "pictures.json", "drawn-by-hand.png", *names}
    assert set(json.loads((run / "report" / "pictures.json").read_text())) == names
    assert (run / "config.json").exists()


def test_a_run_in_its_quantized_phase_has_a_report(copied, command):
    run = copied("summary.json", "integer")
    outcome = command("report", run, "--samples", 40, "--json")
    assert (outcome.status, outcome.error) == (0, "")
    fields = json.loads(outcome.output)
    assert not fields["finished"] and fields["phase"] == "quantized" and fields["sensitivity"]["samples"] == 40
    assert fields["predictions"]["network"] == "fake_quantized" and fields["layers"][0]["multiply_adds"] is None
    page = page_of(run)
    assert page.sections == list(SECTIONS)
    assert "This run is not finished. It is in its quantized phase" in page.text


def test_a_run_in_its_float_phase_shows_its_curves_and_mistakes(copied, command):
    run = copied("summary.json", "integer", "checkpoints/quantized", "environment.json")
    outcome = command("report", run)
    assert outcome.status == 0 and "the run is not finished: it is in its float phase" in outcome.output
    page = page_of(run)
    assert page.sections == ["accuracy", "training", "confusion", "mistakes", "making"]
    assert "nothing is quantized yet" in page.text


@pytest.mark.parametrize(
    ("gone", "sections", "noted", "said"),
    [
        (
            "checkpoints/quantized",
            ["accuracy", "training", "confusion", "mistakes", "making"],
            "The checkpoint of its quantized phase is missing or damaged",
            "its newest checkpoint that can be read is in its float phase",
        ),
        (
            "checkpoints",
            ["accuracy", "training", "making"],
            "Every checkpoint of the run is missing or damaged",
            "it has no checkpoint that can be read",
        ),
    ],
    ids=["quantized", "all"],
)
def test_a_finished_run_whose_checkpoints_are_gone_keeps_its_figures(gone, sections, noted, said, copied, command):
    run = copied(gone)
    outcome = command("report", run)
    assert outcome.status == 0 and f"the run is finished, but {said}" in outcome.output
    page, summary = page_of(run), json.loads((run / "summary.json").read_text())
    assert page.sections == sections and noted in page.text and "not finished" not in page.text
    for network in ("float", "fake_quantized", "integer"):
        assert f"{100 * summary[network]['top1']:.2f} %" in page.text and f"{summary[network]['bytes']:,}" in page.text
    assert f"{summary['step']:,}" in page.text


def test_a_run_without_a_checkpoint_shows_its_curves(copied, command):
    run = copied("summary.json", "integer", "checkpoints")
    assert command("report", run).status == 0
    assert page_of(run).sections == ["accuracy", "training", "making"]


def test_a_run_without_metrics_has_no_empty_charts(copied, command):
    run = copied("summary.json", "integer", "checkpoints/quantized", "metrics.jsonl")
    assert command("report", run).status == 0
    page = page_of(run)
    assert "No step is on record yet." in page.text
    assert not {"training-loss.png", "learning-rate.png"} & {file.name for file in (run / "report").iterdir()}


def without_metrics(copied) -> list:
    return [copied("summary.json", "integer", "checkpoints", "metrics.jsonl")]


def in_the_way(copied) -> list:
    run = copied()
    (run / "report").write_text("a file where the folder should be")
    return [run]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (without_metrics, "has no metrics and no checkpoint"),
        (in_the_way, "cannot write the report to .*report: "),
        (lambda copied: [copied(), "--samples", 0], "`--samples` must be a whole number of at least 1, got 0"),
        (
            lambda copied: ["nowhere"],
            "the run folder must be a folder that exists, got 'nowhere', which does not exist",
        ),
    ],
    ids=["nothing yet", "not to be written", "no samples", "no run"],
)
def test_what_cannot_be_gets_one_sentence(arguments, says, copied, command):
    outcome = command("report", *arguments(copied))
    assert outcome.status == 2 and outcome.output == ""
    assert re.fullmatch(f"error: .*{says}.*\n", outcome.error)


def test_text_is_escaped_wherever_it_comes_from():
    assert element("p", "<script>", class_='a"b') == '<p class="a&quot;b">&lt;script&gt;</p>'
    assert element("p", Html("<b>x</b>"), open=True, hidden=False) == "<p open><b>x</b></p>"
