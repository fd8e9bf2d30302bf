"""The same update on any number of devices and hosts, and what the devices send each other for it."""

import collections
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lglsq_jax as lq
from lglsq_jax.training.collectives import Collective, collectives, complaints
from tests.short_run import ROOT, free_port, simulated_devices

SCRIPT = Path(__file__).with_name("on_devices.py")
PRESETS = lq.methods.names()


def start(*arguments) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def losses_and_parameters(file: Path) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """``{method: {mesh: {name: array}}}``"""
    found = collections.defaultdict(lambda: collections.defaultdict(dict))
    with np.load(file) as arrays:
        for key in arrays:
            mesh, method, name = key.split(" ", 2)
            found[method][mesh][name] = arrays[key]
    return found


def assert_same(wanted: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> None:
    assert wanted.keys() == found.keys() and len(wanted) > 5
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5 * np.abs(array).max(), err_msg=name)


@pytest.mark.slow
def test_a_batch_over_devices_and_split_parameters_learn_the_same(tmp_path):
    process = start(tmp_path / "out", "1x1,2x1,2x4", "lg_lsq")
    said, _ = process.communicate()
    assert process.returncode == 0, said
    by_mesh = losses_and_parameters(tmp_path / "out.npz")["lg_lsq"]
    assert set(by_mesh) == {"1x1", "2x1", "2x4"}
    for found in by_mesh.values():
        assert_same(by_mesh["1x1"], found)
    before = by_mesh["1x1"]["losses"]
    assert len(before) == 20 and len(set(before)) == 20


@pytest.mark.long
@pytest.mark.parametrize("method", PRESETS)
def test_every_method_learns_the_same_on_every_mesh(method, tmp_path):
    process = start(tmp_path / "out", "1x1,2x1,4x1,8x1,2x2,1x4", method)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    by_mesh = losses_and_parameters(tmp_path / "out.npz")[method]
    assert len(by_mesh) == 6
    for found in by_mesh.values():
        assert_same(by_mesh["1x1"], found)


@pytest.mark.long
def test_two_processes_learn_the_same_as_one(tmp_path):
    methods = ",".join(PRESETS)
    alone = start(tmp_path / "one", "1x1", methods)
    said, _ = alone.communicate()
    assert alone.returncode == 0, said
    coordinator = f"127.0.0.1:{free_port()}"
    both = [start(tmp_path / "two", "4x1,2x2", methods, coordinator, 2, i) for i in range(2)]
    for process in both:
        said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said
    one, two = (losses_and_parameters(tmp_path / f"{name}.npz") for name in ("one", "two"))
    assert set(one) == set(two) == set(PRESETS)
    for method in PRESETS:
        for mesh in ("4x1", "2x2"):
            assert_same(one[method]["1x1"], two[method][mesh])


@pytest.mark.slow
def test_devices_send_gradients_once_fused_and_no_activations(tmp_path):
    code = f"""if True:
        from lglsq_jax.errors import UserError
        from lglsq_jax.data import DataConfig
        from lglsq_jax.training import TrainConfig, evaluation
        from tests.training.small_step import batches, mesh_of, place, prepared
        try:
            evaluation.mesh_of(TrainConfig(DataConfig(batch_size=24, eval_batch_size=8), accumulate=2))
        except UserError as error:
            print(error)
        for data, fsdp in ((8, 1), (2, 4)):
            mesh = mesh_of(data, fsdp)
            step, state = prepared("lg_lsq", mesh)
            text = step.lower(state, place(mesh, next(batches()))).compile().as_text()
            open({str(tmp_path / "out")!r} + f"{{data}}x{{fsdp}}.txt", "w").write(text)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": simulated_devices(8)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, timeout=600, stdout=subprocess.PIPE, text=True
    )
    said = "`batch_size` must be a multiple of the number of devices x accumulate, 8 x 2, got 24"
    assert done.stdout.strip() == said
    kernels = {(3, 3, 3, 8), (3, 3, 8, 16), (16, 4)}
    for mesh in ("8x1", "2x4"):
        found = collectives((tmp_path / f"out{mesh}.txt").read_text())
        gathers = [one for one in found if one.kind == "all-gather"]
        if mesh == "8x1":
            assert not gathers
        else:  # the one kernel that is large enough to be split, sums of its quantizer, and nothing with a batch in it
            assert [one.shapes for one in gathers if one.bytes > 64] == [((3, 3, 8, 16),)]
        assert {one.kind for one in found} <= {"all-reduce", "all-gather", "reduce-scatter"}
        holding = [one for one in found if one.kind != "all-gather" and kernels & set(one.shapes)]
        assert len(holding) == (1 if mesh == "8x1" else 2)  # the split kernel has one of its own
        assert sum(one.bytes for one in found if one.kind == "all-reduce") < 2 * 4 * (216 + 8 + 1152 + 32 + 68 + 1000)


def test_collectives_are_read_from_a_programs_text():
    text = """
      %all-reduce.1 = (f32[3,3,8]{2,1,0}, s32[]) all-reduce(%a, %b), replica_groups={}
      ROOT %x = bf16[4,2]{1,0} all-gather-start(%c), dimensions={0}
      %y = f32[8]{0} add(%all-reduce.1, %z)
    """
    assert collectives(text) == [
        Collective("all-reduce", ((3, 3, 8), ()), 4 * 72 + 4),
        Collective("all-gather", ((4, 2),), 16),
    ]


@pytest.mark.parametrize(
    ("fsdp", "found", "wrong"),
    [
        (1, [("all-reduce", (3, 3, 64, 64), (64,))], []),
        (1, [("all-reduce", (3, 3, 64, 64), (64,)), *[("all-reduce", (64,))] * 40], []),
        (8, [("all-gather", (3, 3, 64, 64)), ("reduce-scatter", (3, 3, 8, 64)), ("all-reduce", (64,))], []),
        (8, [("all-gather", (1, 3, 64, 3, 64))], []),  # a parameter in another layout
        (1, [("all-gather", (32, 32, 32, 64))], ["all-gather of (32, 32, 32, 64), which is no parameter"]),
        (1, [("all-to-all", (9, 999))], ["all-to-all of (9, 999), which is no parameter"]),
        (1, [("all-gather", (32, 8))], []),  # sums of quantizers
        (1, [("all-reduce", (3, 3, 64, 64))] * 2, ["294,912 bytes are reduced, but the gradients are 147,712"]),
        (1, [("all-reduce", (3, 3, 16, 64))] * 4, ["4 reductions of more than 16384 bytes: gradients are not fused"]),
        (8, [("all-reduce", (3, 3, 16, 64))] * 4, []),
    ],
)
def test_what_a_step_should_not_send_is_named(fsdp, found, wrong):
    operations = [
        Collective(kind, tuple(shapes), 4 * sum(int(np.prod(shape)) for shape in shapes)) for kind, *shapes in found
    ]
    assert complaints(operations, {"kernel": (3, 3, 64, 64), "bias": (64,)}, fsdp) == wrong
