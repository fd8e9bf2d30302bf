"""The scripts of examples/cluster/ are run with stand-ins for their programs; train.py understands what they ask."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from lglsq_jax.commands.train import read
from lglsq_jax.training.cluster import join
from tests.short_run import ROOT

FOLDER = ROOT / "examples" / "cluster"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
STANDS_IN = """#!/usr/bin/env bash
printf '%s\\0' "$(basename "$0")" "$@" >> "$ASKED"; printf '\\n' >> "$ASKED"
case "$(basename "$0")" in
    srun) while [ "$1" != python ]; do shift; done; exec "$@" ;;
    gcloud) for last; do :; done; exec bash -c "$last" ;;
    python) exit "$STATUS" ;;
esac
"""


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Runs a command with bash: ``asked(arguments, status of train.py) -> exit status, what was started``."""
    programs, file = tmp_path / "bin", tmp_path / "asked"
    programs.mkdir()
    for name in ("python", "srun", "scontrol", "gcloud"):
        (programs / name).write_text(STANDS_IN)
        (programs / name).chmod(0o755)
    given = {"TPU": "slice", "ZONE": "here", "SOURCE": str(tmp_path), "SLURM_JOB_ID": "7", "JOB_COMPLETION_INDEX": "3"}
    environment = {**os.environ, **given, "ASKED": str(file), "PATH": f"{programs}:{os.environ['PATH']}"}

    def run(arguments, status: int = 0) -> tuple[int, list[list[str]]]:
        file.write_bytes(b"")
        done = subprocess.run(["bash", *arguments], env={**environment, "STATUS": str(status)}, capture_output=True)
        return done.returncode, [line.split("\0")[:-1] for line in file.read_text().splitlines()]

    return run


def command_of_the_pods() -> tuple[list[str], dict]:
    jobset = yaml.safe_load((FOLDER / "jobset.yaml").read_text())
    job = jobset["spec"]["replicatedJobs"][0]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    return container["command"][1:], jobset


def trained(started: list[list[str]]) -> list[str]:
    """The command line of the only ``train.py``."""
    ((_, script, *arguments),) = [line for line in started if line[0] == "python"]
    assert script == "train.py"
    return arguments


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_bash_reads_a_script(script: Path):
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("name", [*(script.name for script in SCRIPTS), "jobset.yaml"])
def test_train_understands_every_flag(name, asked):
    status, started = asked(command_of_the_pods()[0] if name.endswith(".yaml") else [str(FOLDER / name)])
    assert status == 0
    config, given, run_dir = read(trained(started), ROOT / "configs")
    assert config.data.source == "imagenet" and config.data.path and config.pretraining.weights
    assert run_dir.endswith("imagenet_resnet18")
    assert config.data.batch_size % 32 == 0 == config.data.eval_batch_size % 8  # of devices
    several = given.distributed or given.coordinator is not None
    assert several == (name != "one_machine.sh")
    assert not several or config.data.eval_batch_size % 32 == 0
    if name.endswith(".yaml"):
        assert given.process_id == 3 and given.processes == 4


def test_pods_are_as_many_as_the_processes_and_find_the_first(asked):
    command, jobset = command_of_the_pods()
    spec, (job,) = jobset["spec"], jobset["spec"]["replicatedJobs"]
    _, given, _ = read(trained(asked(command)[1]), ROOT / "configs")
    assert given.processes == job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"]
    host, port = given.coordinator.split(":")
    name = jobset["metadata"]["name"]
    assert host == f"{name}-{job['name']}-0-0.{name}" and spec["network"]["enableDNSHostnames"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    assert int(port) == container["ports"][0]["containerPort"]


@pytest.mark.parametrize(("status", "times"), [(0, 1), (1, 1), (143, 1), (75, 5)])
def test_one_machine_goes_on_after_a_hang_alone(status, times, asked):
    found, started = asked([str(FOLDER / "one_machine.sh")], status)
    assert found == status and len(started) == times


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (2, False), (75, True), (143, True)])
def test_slurm_begins_again_after_a_stop_or_a_hang(status, requeued, asked):
    found, started = asked([str(FOLDER / "slurm.sh")], status)
    assert found == status
    assert (["scontrol", "requeue", "7"] in started) == requeued


def test_the_page_names_real_flags_and_files():
    page = (ROOT / "docs" / "at-scale.md").read_text()
    for name in re.findall(r"examples/cluster/([\w.]+)", page):
        assert (FOLDER / name).exists(), name
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("python train.py "):
                words = [re.sub(r"\$\w+", "1", word) for word in line.split("#")[0].split()]
                assert read(words[2:], ROOT / "configs")


def test_a_coordinator_without_the_number_of_processes_is_refused():
    with pytest.raises(Exception, match="must be given together"):
        join(distributed=False, coordinator="10.0.0.1:1234", processes=None, process_id=0)
