"""Programs as ONNX models in ONNX Runtime, against the networks that its own quantizer makes, in one run.

    python benchmarks/onnx_runtime.py [--models resnet8 mobilenet_v2] [--bits 4] [--size 32] [--batch 8] [--rounds 15]
        [--wide-sums]

For each network: the integer form and the QDQ form of its program, the QDQ form where its residual stream has 8 bits
too, as ONNX Runtime's own quantizer makes it, a float model of the same layers, and that model after
``onnxruntime.quantization.quantize_static`` (QDQ, uint8 by int8, a scale a channel). All run on one thread and take
turns; the table gives the median time, the median ratio to the network that ONNX Runtime quantized in the same
round (below 1 is faster), and how many products ONNX Runtime runs as one kernel of bytes.
"""

import argparse
import inspect
import logging
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from flax import nnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import lglsq_jax as lq

KERNELS = ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "ConvInteger", "MatMulInteger")


def program_of(name: str, bits: int, images: np.ndarray, *, stream: bool, **options) -> lq.integer.IntegerProgram:
    """Returns the integer program of a network with random weights and batch statistics."""
    model = getattr(lq.models, name)(num_classes=10, in_channels=images.shape[-1], rngs=nnx.Rngs(0), **options)
    rng = np.random.default_rng(1)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            for statistic in (module.mean, module.bias):
                assert statistic is not None
                statistic[...] = jnp.asarray(0.2 * rng.normal(size=statistic.shape), jnp.float32)
    weights = lq.QuantSpec(bits, channel_axis=-1, narrow_range=True)
    inputs = lq.QuantSpec(bits, signed=False, batch_axis=0)
    values = lq.QuantSpec(8, batch_axis=0) if stream else None
    rules = lq.models.recommended_rules(model, weights=weights, inputs=inputs, stream=values)
    model = lq.quantize_model(model, rules)
    lq.calibrate(model, [images])
    model.eval()
    return lq.integer.lower(model, images[:1])


def float_model(program: lq.integer.IntegerProgram) -> onnx.ModelProto:
    """Returns a float model with the layers of a program: its convolutions, additions, ReLUs and products."""
    nodes, constants, names = [], [], {}
    steps = program.instructions
    rng = np.random.default_rng(0)

    def constant(name: str, array: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def add(op: str, inputs: list[str], name: str, **attributes) -> str:
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    for index, step in enumerate(steps):
        given = [names[number] for number in step.inputs if steps[number].op != "constant"]
        name = f"value{index}"
        if step.op == "input":
            name = add("Transpose", ["image"], name, perm=[0, 3, 1, 2])
        elif step.op in ("convolve", "multiply"):
            kernel = steps[step.inputs[1]].constants["codes"]
            kernel = rng.normal(size=kernel.shape) * np.sqrt(2 / np.prod(kernel.shape[:-1]))
            bias = constant(f"bias{index}", 0.1 * rng.normal(size=kernel.shape[-1]))
            if step.op == "multiply":
                name = add("Gemm", [*given, constant(f"weights{index}", kernel), bias], name)
            else:
                window = step.attributes
                pads = [pair[end] for end in (0, 1) for pair in window["padding"]]
                operands = [*given, constant(f"weights{index}", kernel.transpose(3, 2, 0, 1)), bias]
                geometry = {"pads": pads, "strides": window["strides"], "group": window["groups"]}
                name = add("Conv", operands, name, **geometry)
        elif step.op in ("rescale", "staircase"):
            name = given[0]
            for count, other in enumerate(given[1:]):
                name = add("Add", [name, other], f"value{index}_{count}")
            if step.attributes["low"] == 0 and steps[step.inputs[0]].op != "rescale":
                name = add("Relu", [name], f"value{index}")
        elif step.op == "window_max":
            window = {name: step.attributes[name][1:-1] for name in ("dimensions", "strides", "padding")}
            pads = [pair[end] for end in (0, 1) for pair in window["padding"]]
            name = add("MaxPool", given, name, kernel_shape=window["dimensions"], strides=window["strides"], pads=pads)
        elif step.op == "sum":
            name = add("Flatten", [add("GlobalAveragePool", given, f"pooled{index}")], name)
        elif step.op == "encode":
            name = given[0]
        elif step.op != "constant":
            raise SystemExit(f"error: the float model has no `{step.op}`")
        names[index] = name
    add("Identity", [names[len(steps) - 1]], "logits")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *program.input_shape[1:]])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 21)]
    graph = helper.make_graph(nodes, "float", [image], [logits], constants)
    return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))


class Images(CalibrationDataReader):
    """The images once, for calibration."""

    def __init__(self, images: np.ndarray):
        self.batches = iter([{"image": images}])

    def get_next(self):
        return next(self.batches, None)


def session(path: Path) -> tuple[onnxruntime.InferenceSession, int]:
    """Returns a session of one thread, and how many kernels of bytes it runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    runner = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    return runner, sum(operator in KERNELS for operator in operators)


def measure(sessions: dict[str, onnxruntime.InferenceSession], feeds: dict[str, np.ndarray], rounds: int):
    """Returns the seconds of each round of each session; they take turns."""
    seconds = {name: np.empty(rounds) for name in sessions}
    for round in range(-1, rounds):
        for name, runner in sessions.items():
            given = {runner.get_inputs()[0].name: feeds[name]}
            began = time.perf_counter()
            runner.run(None, given)
            if round >= 0:
                seconds[name][round] = time.perf_counter() - began
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet8", "mobilenet_v2"])
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--wide-sums", action="store_true", help="write the QDQ form for a machine with VNNI or its like"
    )
    options = parser.parse_args()
    qdq = {"form": "qdq", "wide_sums": options.wide_sums}
    logging.disable(logging.WARNING)
    images = np.random.default_rng(0).normal(size=(options.batch, options.size, options.size, 3)).astype(np.float32)
    print(f"batch {options.batch}, {options.size}x{options.size} images, {options.bits} bits, one thread")
    print(f"{'network':14} {'form':22} {'time':>10} {'ratio':>7} {'kernels of bytes':>17}")
    for name in options.models:
        small = options.size <= 64 and "stem_stride" in inspect.signature(getattr(lq.models, name)).parameters
        given = {"stem_stride": 1} if small else {}
        program = program_of(name, options.bits, images, stream=False, **given)
        forms = ["quantized", "qdq", "integer", "float"]
        with tempfile.TemporaryDirectory() as folder:
            if name != "shufflenet_v2":  # which adds nothing
                forms.insert(2, "stream")
            paths = {form: Path(folder) / f"{form}.onnx" for form in forms}
            if "stream" in paths:
                program_of(name, options.bits, images, stream=True, **given).to_onnx(paths["stream"], **qdq)
            program.to_onnx(paths["integer"])
            program.to_onnx(paths["qdq"], **qdq)
            onnx.save(float_model(program), paths["float"])
            quantize_static(
                paths["float"],
                paths["quantized"],
                Images(images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            found = {form: session(path) for form, path in paths.items()}
        sessions = {form: runner for form, (runner, _) in found.items()}
        feeds = dict.fromkeys(paths, images) | {"integer": np.asarray(program.encode(images))}
        seconds = measure(sessions, feeds, options.rounds)
        titles = {
            "quantized": "by ONNX Runtime",
            "qdq": "QDQ form",
            "stream": "QDQ form, 8-bit stream",
            "integer": "integer form",
            "float": "float",
        }
        for form in forms:
            ratio = np.median(seconds[form] / seconds["quantized"])
            milliseconds = f"{1e3 * np.median(seconds[form]):.2f} ms"
            print(f"{name:14} {titles[form]:22} {milliseconds:>10} {ratio:>6.2f}x {found[form][1]:>17}", flush=True)


if __name__ == "__main__":
    main()
