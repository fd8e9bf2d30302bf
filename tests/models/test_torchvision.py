"""Weights under TorchVision's names: equal logits against PyTorch, one sentence for a file that does not fit."""

import io
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.flax import save_file as save_in_any_dtype
from safetensors.numpy import load_file, save_file

import lglsq_jax as lq
from lglsq_jax import models

NAMES = ["resnet18", "resnet34", "resnet50", "mobilenet_v2", "shufflenet_v2"]


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def outline_with_zeros(name: str, classes: int) -> nnx.Module:
    graph, state = nnx.split(nnx.eval_shape(lambda: getattr(models, name)(num_classes=classes, rngs=nnx.Rngs(0))))
    return nnx.merge(graph, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state))


@nnx.jit
def forward(model, images):
    return model(images)


@pytest.mark.parametrize(("name", "suffix"), [*((name, ".pth") for name in NAMES), ("shufflenet_v2", ".safetensors")])
def test_pytorchs_weights_give_pytorchs_logits(torch, tmp_path, name, suffix):
    from .torch_networks import random_network

    network = random_network(name, 7)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(network.state_dict(), path)
    else:
        save_file({key: tensor.numpy() for key, tensor in network.state_dict().items()}, path)
    model = outline_with_zeros(name, 7)
    models.load_torchvision(model, path)
    images = np.random.default_rng(0).normal(size=(2, 48, 40, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    model.eval()
    found = np.asarray(forward(model, images))
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2"])
def test_pytorch_takes_what_is_saved_without_a_key_missing_or_left(torch, tmp_path, name):
    from .torch_networks import NETWORKS, random_network

    network, model = random_network(name, 3), outline_with_zeros(name, 3)
    torch.save({"model": network.state_dict()}, tmp_path / "first.pth")  # as training scripts wrap it
    models.load_torchvision(model, tmp_path / "first.pth")
    models.save_torchvision(model, tmp_path / "second.pth")
    stored = torch.load(tmp_path / "second.pth", weights_only=True)
    NETWORKS[name](3).load_state_dict(stored, strict=True)
    for key, tensor in network.state_dict().items():
        assert torch.equal(stored[key], tensor), key


@pytest.fixture(scope="module")
def resnet8():
    return models.resnet8(num_classes=3, in_channels=1, rngs=nnx.Rngs(0))


@pytest.fixture
def weights(resnet8, tmp_path):
    path = tmp_path / "weights.safetensors"
    models.save_torchvision(resnet8, path)
    return path


def values(model: nnx.Module) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param, nnx.BatchStat))]


def test_a_round_trip_keeps_every_number(resnet8, weights):
    other = models.resnet8(num_classes=3, in_channels=1, rngs=nnx.Rngs(1))
    models.load_torchvision(other, weights)
    for one, two in zip(values(resnet8), values(other), strict=True):
        np.testing.assert_array_equal(one, two)


def test_another_head_keeps_its_own_start(resnet8, weights):
    other = models.resnet8(num_classes=5, in_channels=1, rngs=nnx.Rngs(1))
    head = np.asarray(other.fc.kernel[...])
    models.load_torchvision(other, weights, keep=["fc"])
    np.testing.assert_array_equal(other.fc.kernel[...], head)
    np.testing.assert_array_equal(other.conv1.kernel[...], resnet8.conv1.kernel[...])


def test_all_that_does_not_fit_is_in_one_message_and_nothing_is_changed(resnet8, weights):
    stored = load_file(weights)
    del stored["bn1.weight"], stored["layer2.0.conv1.weight"]
    stored["extra.weight"] = np.zeros(2, np.float32)
    stored["fc.bias"] = np.zeros(4, np.float32)
    save_file(stored, weights)
    other = models.resnet8(num_classes=3, in_channels=1, rngs=nnx.Rngs(1))
    before = values(other)
    message = (
        r"does not fit ResNet: missing: bn1\.weight, layer2\.0\.conv1\.weight; unused: extra\.weight; "
        r"of another shape: fc\.bias \(\[4\] in the file, \[3\] in the network\)$"
    )
    with pytest.raises(ValueError, match=message):
        models.load_torchvision(other, weights)
    for one, two in zip(before, values(other), strict=True):
        np.testing.assert_array_equal(one, two)


def test_numbers_that_are_not_finite_are_named(resnet8, weights):
    stored = load_file(weights)
    stored["bn1.bias"] = stored["bn1.bias"] + np.float32(np.nan)
    save_file(stored, weights)
    with pytest.raises(ValueError, match=r"must hold finite numbers, but these have NaN or infinity: bn1\.bias$"):
        models.load_torchvision(resnet8, weights)


@pytest.mark.parametrize("content", [b"", b"\x10", b"\xff" * 64, b"\x02\x00\x00\x00\x00\x00\x00\x00{]"])
def test_a_damaged_safetensors_file_is_one_sentence(resnet8, tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must be a safetensors file of numbers, but it is not"):
        models.load_torchvision(resnet8, path)


def test_a_file_that_would_execute_code_is_refused(torch, resnet8, tmp_path):
    path, witness = tmp_path / "weights.pth", tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (open, (str(witness), "w"))

    buffer = io.BytesIO()
    torch.save({"conv1.weight": Evil()}, buffer)
    for content in (buffer.getvalue(), pickle.dumps(Evil()), b"not a file of torch"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="must be a PyTorch file of weights alone, but it is not"):
            models.load_torchvision(resnet8, path)
    assert not witness.exists()
    torch.save(torch.zeros(3), path)
    with pytest.raises(ValueError, match="must hold tensors by name, got Tensor"):
        models.load_torchvision(resnet8, path)


def test_without_pytorch_a_pth_file_says_what_to_do(resnet8, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (models.load_torchvision, models.save_torchvision):
        with pytest.raises(ModuleNotFoundError, match=r"^\.pth files need PyTorch, which is not installed"):
            call(resnet8, tmp_path / "weights.pth")


def test_other_wrong_uses(resnet8, weights, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.safetensors, \.pth or \.pt, got 'weights\.npz'"):
        models.load_torchvision(resnet8, "weights.npz")
    with pytest.raises(FileNotFoundError):
        models.load_torchvision(resnet8, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"`keep` matches no module: 'head'; known are bn1, conv1, fc, layer1/0/bn1"):
        models.load_torchvision(resnet8, weights, keep=["head"])
    with pytest.raises(ValueError, match="`keep` must be a list of patterns, got the string 'fc'"):
        models.load_torchvision(resnet8, weights, keep="fc")
    quantized = lq.quantize_model(resnet8, [lq.Rule(r".*", weights=lq.QuantSpec(bits=4))])
    with pytest.raises(ValueError, match="`model` must be a float network; load or save its weights before"):
        models.load_torchvision(quantized, weights)
    with pytest.raises(ValueError, match="`model` must hold convolutions, linear layers or batch norms, got Dropout"):
        models.save_torchvision(nnx.Dropout(0.5), tmp_path / "none.safetensors")


def test_weights_in_bfloat16_are_read_and_too_large_ones_are_not(tmp_path):
    model, path = nnx.Linear(2, 3, rngs=nnx.Rngs(0)), tmp_path / "weights.safetensors"
    stored = {"weight": jnp.asarray([[1, 2], [3, 4], [5, 6.5]], jnp.bfloat16), "bias": jnp.zeros(3, jnp.float16)}
    save_in_any_dtype(stored, path)
    models.load_torchvision(model, path)
    np.testing.assert_array_equal(model.kernel[...], stored["weight"].astype(jnp.float32).T)
    assert model.kernel[...].dtype == jnp.float32
    save_file({"weight": np.full((3, 2), 1e300), "bias": np.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"must hold finite numbers, but these have NaN or infinity: weight$"):
        models.load_torchvision(model, path)
    with pytest.raises(ValueError, match=r"^`keep` must hold regular expressions, got '\(': "):
        models.load_torchvision(model, path, keep=["("])
