"""Float networks with TorchVision's module names, and the rules that are recommended for quantizing them."""

from .recommended import recommended_rules
from .resnet import BasicBlock, Bottleneck, ResNet, resnet8, resnet18, resnet20, resnet34, resnet50

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ResNet",
    "recommended_rules",
    "resnet8",
    "resnet18",
    "resnet20",
    "resnet34",
    "resnet50",
]
