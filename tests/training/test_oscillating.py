"""Oscillations in the trainer's step: tracked as if from outside, frozen for good, damped by the gradient alone."""

import itertools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import lglsq_jax as lq
from lglsq_jax.errors import UserError
from lglsq_jax.training.config import QuantizedConfig, TrainConfig
from lglsq_jax.training.mesh import make_mesh, place
from lglsq_jax.training.oscillating import Tracking, check_tracked, describe
from lglsq_jax.training.skeleton import Skeleton
from tests.short_run import ROOT
from tests.training.small_step import batches, prepared, quantized

FREEZING = {"learning_rate": 0.3, "oscillation_momentum": 0.2, "freeze_threshold": 0.1, "freeze_threshold_start": 0.3}


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(TrainConfig().mesh, {})


def states(mesh, settings, **options):
    """The state after each step, the metrics of each, and the state before the first, on the host."""
    step, state = prepared("lsq", mesh, settings, bits=2, **options)
    found, metrics = [jax.device_get(state)], []
    for batch in batches():
        state, values = step(state, place(mesh, batch))
        found.append(jax.device_get(state))
        metrics.append(jax.device_get(values))
    return found, metrics


@pytest.fixture(scope="module")
def frozen_run(mesh):
    return states(mesh, {**FREEZING, "ema_decay": 0.5})[0]


def test_frozen_codes_stay_while_scales_learn(frozen_run):
    skeleton = Skeleton.of(quantized("lsq", 2))[0]
    codes = []
    for state in frozen_run:
        arrays = [jax.tree.map(jax.numpy.asarray, tree) for tree in (state.parameters, state.average, state.rest)]
        codes.append([lq.weight_codes(skeleton.model(parameters, arrays[2])) for parameters in arrays[:2]])
    for path in ("conv", "last"):
        known = [state.oscillations[path] for state in frozen_run]
        scales = [state.parameters[f"{path}/weight_scale"] for state in frozen_run]
        counts = [int(one.frozen.sum()) for one in known]
        assert counts[0] == 0 and 0 < counts[-1] < known[-1].frozen.size and len(set(counts)) > 3
        for before, now, was, is_now, scale in zip(known, known[1:], codes, codes[1:], scales[1:], strict=False):
            assert now.frozen[before.frozen].all() and not now.frequency[now.frozen].any()
            for which in (0, 1):  # what is trained, and the average that is deployed
                np.testing.assert_array_equal(is_now[which][path][now.frozen], now.codes[now.frozen])
            np.testing.assert_array_equal(is_now[0][path][before.frozen], was[0][path][before.frozen])
            free = ~now.frozen
            np.testing.assert_array_equal(is_now[0][path][free], now.codes[free])
            assert np.isfinite(scale)
        assert len(set(map(float, scales))) > 10


def test_tracking_alone_changes_nothing_and_counts_what_the_codes_did(mesh):
    plain, _ = states(mesh, {"learning_rate": 0.3})
    tracked, _ = states(mesh, {"learning_rate": 0.3, "oscillation_momentum": 0.2, "track_oscillations": True})
    assert plain[-1].oscillations == {}
    for path, array in plain[2].parameters.items():
        np.testing.assert_allclose(array, tracked[2].parameters[path], rtol=1e-5, atol=1e-6)
    known = [state.oscillations["conv"] for state in tracked]
    frequency, last = np.zeros(known[0].codes.shape), np.zeros(known[0].codes.shape)
    for before, now in itertools.pairwise(known):
        change = np.sign(now.codes.astype(int) - before.codes)
        frequency = 0.8 * frequency + 0.2 * (change * last < 0)
        last = np.where(change == 0, last, change)
    np.testing.assert_allclose(known[-1].frequency, frequency, atol=1e-6)
    said = describe(tracked[-1].oscillations)
    assert said["conv"]["weights_oscillating"] == np.mean(frequency > 0.005) > 0
    assert said["conv"]["weights_frozen"] == 0 and said.keys() == {"conv", "last"}


def test_dampening_draws_weights_to_their_codes(mesh):
    def distance(state):
        x, scale = (state.parameters[f"conv/{name}"] for name in ("kernel", "weight_scale"))
        return float(lq.oscillations.dampening(jax.numpy.asarray(x), jax.numpy.asarray(scale), lq.QuantSpec(2)))

    plain, without = states(mesh, {"weight_decay": 0})
    damped, metrics = states(mesh, {"weight_decay": 0, "dampening": 1.0})
    assert "dampening" not in without[0]
    assert metrics[0]["dampening"] == 0 and metrics[0]["loss"] == without[0]["loss"]  # the cosine begins at 0
    assert all(values["dampening"] > 0 for values in metrics[1:])
    assert distance(damped[-1]) < 0.5 * distance(plain[-1])


def test_learning_rates_of_single_parameters_reach_the_step(mesh):
    found, _ = states(mesh, {"learning_rates": (("conv/.*", 0.0),)})
    for path, array in found[0].parameters.items():
        assert (array == found[-1].parameters[path]).all() == path.startswith("conv/"), path


def test_layers_of_many_bits_are_not_tracked():
    skeleton, parameters, rest = Skeleton.of(quantized("lsq", 8))
    tracking = Tracking.of(skeleton, QuantizedConfig(freeze_threshold=0.01))
    assert tracking is not None and tracking.start(parameters, rest) == {}
    for option in ({"freeze_threshold": 0.01}, {"track_oscillations": True}):
        check_tracked(QuantizedConfig(**option))
        check_tracked(QuantizedConfig(**option, weight_bits=8, bit_choices=(4, 8), size_budget=6.0))
        with pytest.raises(UserError, match="must be off for a network without weights of at most 4 bits, got 8"):
            check_tracked(QuantizedConfig(**option, weight_bits=8))


@pytest.mark.long
def test_devices_track_freeze_and_measure_the_same(tmp_path):
    code = f"""if True:
        import itertools, json, jax, numpy as np
        from lglsq_jax.training.mesh import gathered, place, split
        from lglsq_jax.training.reestimation import with_new_statistics
        from lglsq_jax.training.skeleton import Skeleton
        from tests.training.small_step import batches, mesh_of, prepared, quantized
        skeleton, found = Skeleton.of(quantized("lsq", 2))[0], []
        for mesh in (mesh_of(1, 1), mesh_of(2, 4)):
            step, state = prepared("lsq", mesh, {FREEZING | {"learning_rate": 0.05, "dampening": 0.01}!r}, bits=2)
            layout = jax.tree.map(lambda array: array.sharding, state)
            for batch in itertools.islice(batches(), 8):
                state, _ = step(state, place(mesh, batch))
            frozen = state.oscillations["conv"].frozen
            split_alike = frozen.sharding.is_equivalent_to(state.parameters["conv/kernel"].sharding, frozen.ndim)
            images = [place(mesh, {{"image": batch["image"]}}) for batch in itertools.islice(batches(), 2)]
            state = gathered(mesh, with_new_statistics(skeleton, state, images, mesh, layout))
            known = state.oscillations["conv"]
            found.append({{"split": not frozen.is_fully_replicated, "alike": bool(split_alike),
                          "frozen": known.frozen.tolist(), "frequency": known.frequency.tolist(),
                          "mean": state.rest["norm/mean"].tolist(), "var": state.rest["norm/var"].tolist(),
                          "kernel": state.parameters["conv/kernel"].tolist()}})
        open({str(tmp_path / "out.json")!r}, "w").write(json.dumps(found))
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    one, eight = json.loads((tmp_path / "out.json").read_text())
    assert (one["split"], eight["split"]) == (False, True) and one["alike"] and eight["alike"]
    assert np.sum(one["frozen"]) > 0
    for name in ("frozen", "frequency", "mean", "var", "kernel"):
        np.testing.assert_allclose(eight[name], one[name], rtol=1e-4, atol=1e-5, err_msg=name)
