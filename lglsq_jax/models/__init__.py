"""Float networks, and the rules that are recommended for quantizing them.

Those that TorchVision has, and their small relatives, have its module names.
"""

from .ds_cnn import DSCNN, DepthwiseSeparable, ds_cnn
from .mobilenet import InvertedResidual, MobileNetV2, mobilenet_v2
from .recommended import recommended_rules
from .resnet import BasicBlock, Bottleneck, ResNet, resnet8, resnet18, resnet20, resnet34, resnet50
from .shufflenet import ShuffleNetV2, ShuffleUnit, shufflenet_v2
from .torchvision import load_torchvision, save_torchvision

__all__ = [
    "DSCNN",
    "BasicBlock",
    "Bottleneck",
    "DepthwiseSeparable",
    "InvertedResidual",
    "MobileNetV2",
    "ResNet",
    "ShuffleNetV2",
    "ShuffleUnit",
    "ds_cnn",
    "load_torchvision",
    "mobilenet_v2",
    "recommended_rules",
    "resnet8",
    "resnet18",
    "resnet20",
    "resnet34",
    "resnet50",
    "save_torchvision",
    "shufflenet_v2",
]
