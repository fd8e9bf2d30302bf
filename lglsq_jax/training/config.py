"""What an experiment is: data, network, and the two phases of training, as frozen dataclasses."""

import dataclasses
import json
import math
from typing import Any

from ..data import DataConfig
from ..errors import UserError
from ..method_names import OF_A_FUNCTION, check_method
from .bit_options import BitOptions, check_bit_options
from .bounds import check_number, check_rates, check_whole
from .networks import find_network


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = "resnet8"
    """A network of lglsq_jax.models, such as resnet8, resnet20, resnet18, mobilenet_v2, shufflenet_v2, ds_cnn."""
    stem_stride: int | None = None
    """Stride of the first convolution (resnet8, resnet20, mobilenet_v2, shufflenet_v2, ds_cnn); None: its own."""
    stem_pool: bool | None = None
    """Whether max pooling follows the first convolution (shufflenet_v2); None: the network's own, which is yes."""
    width: float | None = None
    """Multiplies the channels (mobilenet_v2: any number; shufflenet_v2: 0.5, 1, 1.5 or 2); None: 1."""
    dropout: float | None = None
    """Share of the classifier's inputs that training leaves out (mobilenet_v2); None: the network's own, 0.2."""

    def __post_init__(self):
        network = find_network(self.name)
        for name in self.options:
            if name not in network.options:
                takes = ", ".join(sorted(network.options)) or "no option"
                raise UserError(
                    f"`{name}` must be None for {self.name}, which takes {takes}; got {getattr(self, name)}"
                )
        if self.stem_stride is not None:
            check_whole("stem_stride", self.stem_stride, 1)
        if self.stem_pool not in (None, True, False):
            raise UserError(f"`stem_pool` must be True, False or None, got {self.stem_pool!r}")
        if self.width is not None:
            check_number("width", self.width, 0, math.inf, open_low=True)
            if network.widths and self.width not in network.widths:
                allowed = ", ".join(f"{width:g}" for width in network.widths)
                raise UserError(f"`width` must be one of {allowed} for {self.name}, got {self.width}")
        if self.dropout is not None:
            check_number("dropout", self.dropout, 0, 1, open_high=True)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of the network that are set."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name != "name" and value is not None}


@dataclasses.dataclass(frozen=True)
class PhaseConfig:
    """One phase of training: SGD with Nesterov momentum, a cosine schedule with a linear warm-up."""

    epochs: int = 20
    """Passes over the training set."""
    learning_rate: float = 0.1
    """Largest learning rate; a cosine takes it to 0."""
    warmup_epochs: float = 1.0
    """Epochs in which the learning rate rises from 0, a fraction is allowed."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 decay of kernels; scales, offsets, biases and batch norm have none."""
    label_smoothing: float = 0.0
    """Probability that is spread over all classes."""

    def __post_init__(self):
        check_whole("epochs", self.epochs, 1)
        check_number("learning_rate", self.learning_rate, 0, math.inf, open_low=True)
        check_number("warmup_epochs", self.warmup_epochs, 0, self.epochs)
        check_number("momentum", self.momentum, 0, 1, open_high=True)
        check_number("weight_decay", self.weight_decay, 0, math.inf)
        check_number("label_smoothing", self.label_smoothing, 0, 1, open_high=True)


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(PhaseConfig):
    """The float phase."""

    start_from: str | None = None
    """Folder of a finished run whose float network is taken instead of training one."""
    weights: str | None = None
    """File of TorchVision's weights (.safetensors or .pth) that are taken instead of training a float network."""

    def __post_init__(self):
        for name, what in (("start_from", "the folder of a run"), ("weights", "a file of TorchVision's weights")):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise UserError(f"`{name}` must be {what}, got {value!r}")
        if self.start_from is not None and self.weights is not None:
            raise UserError("`start_from` and `weights` must not both be given: each names the float network to take")
        super().__post_init__()


@dataclasses.dataclass(frozen=True)
class QuantizedConfig(BitOptions, PhaseConfig):
    """The quantized phase: starts from the float network's weights and calibrated scales."""

    method: str = "lg_lsq"
    """How scales and values learn: lg_lsq, lsq, lsq_plus, llsq, ewgs, pact, dorefa or ste; parts of LG-LSQ may be
    added or left out, such as lsq+asr+mde or lg_lsq-ssg."""
    weight_bits: int = 3
    """Bits of the weights, 2 to 8; the first and the last layer have 8."""
    input_bits: int = 3
    """Bits of the layers' inputs, 2 to 8; the first and the last layer have 8."""
    stream_bits: int | None = None
    """Bits of the residual stream, 2 to 8: what the stem gives, both sides of every addition and its result, for
    runtimes and chips that add bytes. None: values are added unrounded."""
    per_channel: bool = False
    """Give each output channel of a kernel its own scale."""
    scale_learning_rate: float | None = None
    """Largest learning rate of the scales; None: the same as of the weights."""
    scale_floor: float = 0.02
    """Scales are held above this fraction of their start."""
    calibration_batches: int = 4
    """Training batches from which the scales start."""
    scale_start_factor: float = 1.0
    """Multiplies every scale after calibration, to try a bad start."""
    distillation: float = 0.0
    """Weight of the float network's predictions in the loss, from 0 (labels alone) to 1."""
    temperature: float = 2.0
    """Temperature at which the predictions are compared."""
    ema_decay: float = 0.0
    """Decay of a moving average of the parameters, which is then evaluated and deployed; 0: off."""
    batch_norm_batches: int = 0
    """Training batches on which batch norm's statistics are measured anew after the last step; 0: off."""
    dampening: float = 0.0
    """Weight, at the end of a cosine from 0, of the squared distances of weights from their codes in the loss."""
    freeze_threshold: float = 0.0
    """Frequency of going back and forth above which a weight's code is frozen, at the end of training; 0: off."""
    freeze_threshold_start: float = 0.1
    """The same at the beginning; a cosine leads to freeze_threshold."""
    oscillation_momentum: float = 0.01
    """Weight of a step in the moving averages that freezing goes by; one change back counts as much."""
    track_oscillations: bool = False
    """Log which share of each layer's weights goes back and forth, also where none is frozen."""
    learning_rates: tuple[tuple[str, float], ...] = ()
    """Pairs of a pattern and a factor, such as 'fc/.*' 0.1: multiplies the learning rate of the parameters whose whole
    path matches, such as fc/kernel or layer1/0/conv1/weight_scale; the last that matches decides."""

    def __post_init__(self):
        super().__post_init__()
        try:
            check_method(self.method)
        except ValueError as error:
            raise UserError(str(error).replace("`name`", "`method`")) from None
        for field in ("weight_bits", "input_bits"):
            check_whole(field, getattr(self, field), 2, 8)
        if self.stream_bits is not None:
            check_whole("stream_bits", self.stream_bits, 2, 8)
        if not isinstance(self.per_channel, bool):
            raise UserError(f"`per_channel` must be True or False, got {self.per_channel!r}")
        if self.scale_learning_rate is not None:
            check_number("scale_learning_rate", self.scale_learning_rate, 0, math.inf)
        check_number("scale_floor", self.scale_floor, 0, 1, open_low=True, open_high=True)
        check_whole("calibration_batches", self.calibration_batches, 1)
        check_number("scale_start_factor", self.scale_start_factor, 0, math.inf, open_low=True)
        check_number("distillation", self.distillation, 0, 1)
        check_number("temperature", self.temperature, 0, math.inf, open_low=True)
        check_number("ema_decay", self.ema_decay, 0, 1, open_high=True)
        check_bit_options(self)
        check_whole("batch_norm_batches", self.batch_norm_batches, 0)
        check_number("dampening", self.dampening, 0, math.inf)
        check_number("freeze_threshold", self.freeze_threshold, 0, 1)
        check_number("freeze_threshold_start", self.freeze_threshold_start, 0, 1, open_low=True)
        check_number("oscillation_momentum", self.oscillation_momentum, 0, 1, open_low=True)
        if check_method(self.method)[0] in OF_A_FUNCTION:
            self._check_transformed()
        if not isinstance(self.track_oscillations, bool):
            raise UserError(f"`track_oscillations` must be True or False, got {self.track_oscillations!r}")
        object.__setattr__(self, "learning_rates", check_rates("learning_rates", self.learning_rates))

    def _check_transformed(self) -> None:
        """DoReFa and PACT round tanh(w) / max|tanh(w)|: a network that is not trained so is another one under them."""
        what = f"{self.method}, which rounds a function of the weights"
        if self.freeze_threshold:
            raise UserError(f"`freeze_threshold` must be 0 for {what}")
        for field in ("bit_choices", "progressive_bits"):
            if getattr(self, field):
                raise UserError(
                    f"`{field}` must be empty for {what}: bits and scales are judged by weights as they are"
                )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The devices, of all hosts together; a run may go on with others."""

    data: int | None = None
    """Devices, times fsdp, that a batch is split over; None: all of them."""
    fsdp: int = 1
    """Devices that share the parameters and the optimizer's state, besides their part of the batch; 1: each has all."""
    timeout: float = 1800.0
    """Seconds without a finished step after which the run ends itself, such as when another host hangs; 0: never."""

    def __post_init__(self):
        if self.data is not None:
            check_whole("mesh.data", self.data, 1)
        check_whole("mesh.fsdp", self.fsdp, 1)
        check_number("mesh.timeout", self.timeout, 0, math.inf)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """An experiment. Every field is a flag of ``train.py``."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """Images, batches, augmentation."""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    """The network."""
    pretraining: PretrainingConfig = dataclasses.field(default_factory=PretrainingConfig)
    """The float phase."""
    quantized: QuantizedConfig = dataclasses.field(default_factory=QuantizedConfig)
    """The quantized phase."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    """Devices and hosts."""
    accumulate: int = 1
    """Parts that a batch is taken in one after another: less memory, the same step but for batch norm."""
    batch_norm_groups: int = 1
    """Parts of a batch that batch norm normalises each by itself; the number of devices: no words between them."""
    dtype: str = "float32"
    """What training computes in between layers: float32 or bfloat16. Parameters, codes and evaluation stay float32."""
    skip_bad_steps: int = 0
    """How many steps of a phase whose loss or gradient is not finite are left out; one more ends the run."""
    seed: int = 0
    """Seed of the weights, the order of the images and the augmentation."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0: at the end of every epoch only."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints of a phase are kept, besides the best one."""

    def __post_init__(self):
        check_whole("accumulate", self.accumulate, 1)
        check_whole("batch_norm_groups", self.batch_norm_groups, 1)
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"`dtype` must be float32 or bfloat16, got {self.dtype!r}")
        check_whole("skip_bad_steps", self.skip_bad_steps, 0)
        check_whole("keep_checkpoints", self.keep_checkpoints, 1)
        for field, parts in (("accumulate", self.accumulate), ("batch_norm_groups", self.batch_norm_groups)):
            if self.data.batch_size % (self.accumulate * parts if field != "accumulate" else parts):
                raise UserError(
                    f"`data.batch_size` must be a multiple of accumulate x batch_norm_groups, {self.accumulate} x "
                    f"{self.batch_norm_groups}, got {self.data.batch_size}"
                )
        check_whole("seed", self.seed, 0, 2**32 - 1)
        check_whole("checkpoint_every", self.checkpoint_every, 0)


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """Returns a config as plain nested dictionaries, as ``config.json`` holds it: lists where it has tuples."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(fields: dict[str, Any]) -> TrainConfig:
    """Returns the config that ``as_dict`` wrote.

    A field that is missing has its default: the run is older than the field, and a new field's default is what was done
    before there was one.

    Raises:
        UserError: a field is unknown or out of range.
    """
    return _build(TrainConfig, fields, "config")


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns, for each field in which two configs differ, a text such as ``quantized.epochs (20, now 10)``."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{name}.")
        elif before != after or (name in old) != (name in new):
            found.append(f"{prefix}{name} ({before!r}, now {after!r})")
    return found


def _build(kind, fields, where: str):
    known = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(fields, dict):
        raise UserError(f"`{where}` must be an object with fields, got {fields!r}")
    unknown = sorted(fields.keys() - known.keys())
    if unknown:
        raise UserError(f"`{where}` has no field {unknown[0]!r}; it was written by another version or is damaged")
    values = {}
    for name, value in fields.items():
        nested = dataclasses.is_dataclass(known[name].type)
        values[name] = _build(known[name].type, value, f"{where}.{name}") if nested else value
    return kind(**values)
