"""The command that writes a run's report."""

from typing import Any

from ..errors import UserError
from .command import Command, Result, options_of, positional, setting


def _report(options: Any) -> Result:
    if options.samples is not None and options.samples < 1:
        raise UserError(f"`--samples` must be a whole number of at least 1, got {options.samples}")
    from ..report.findings import MOST_SAMPLES
    from ..report.write import write_report
    from ..training.folder import RunFolder

    folder, config = RunFolder.existing(options.run)
    written = write_report(folder, config, options.samples or MOST_SAMPLES)
    return Result(written.fields, str(written))


def _options() -> type:
    most = "At most so many test images for the sensitivity of the layers; None: 2,000."
    return options_of("Report", [("run", positional("RUN", "Folder of the run.")), ("samples", *setting(int, most))])


REPORT_COMMAND = Command(
    "report", "write RUN/report/report.html: accuracy, curves, layers, sensitivity, mistakes", _report, _options
)
