"""The published networks in PyTorch, written for the tests: what TorchVision's weights mean."""

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the channels."""

    def __init__(self, before, features, stride, bottleneck):
        super().__init__()
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        after = features * (4 if bottleneck else 1)
        widths = (before, *(features,) * (len(kernels) - 1), after)
        for i, (kernel, step) in enumerate(zip(kernels, strides, strict=True)):
            layer = nn.Conv2d(widths[i], widths[i + 1], kernel, step, kernel // 2, bias=False)
            setattr(self, f"conv{i + 1}", layer)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.count = len(kernels)
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = functional.relu(y) if i < self.count else y
        return functional.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet(nn.Module):
    """Stem, max pooling, four stages, mean, linear layer."""

    def __init__(self, depths, bottleneck, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        before = 64
        for stage, depth in enumerate(depths):
            features, blocks = 64 * 2**stage, []
            for index in range(depth):
                blocks.append(Block(before, features, 2 if stage and not index else 1, bottleneck))
                before = features * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(before, classes)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


def norm_act(before, after, kernel, stride=1, groups=1, act=nn.ReLU6):
    layers = [nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(after)]
    return nn.Sequential(*layers, act()) if act else nn.Sequential(*layers)


class Inverted(nn.Module):
    """Inverted residual with a linear bottleneck."""

    def __init__(self, before, after, stride, expansion):
        super().__init__()
        hidden = before * expansion
        layers = [norm_act(before, hidden, 1)] if expansion > 1 else []
        layers += [norm_act(hidden, hidden, 3, stride, hidden), nn.Conv2d(hidden, after, 1, bias=False)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2d(after))
        self.residual = stride == 1 and before == after

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """The network of width 1."""

    def __init__(self, classes):
        super().__init__()
        layers, before = [norm_act(3, 32, 3, 2)], 32
        table = "1 16 1 1, 6 24 2 2, 6 32 3 2, 6 64 4 2, 6 96 3 1, 6 160 3 2, 6 320 1 1"
        for row in table.split(","):
            expansion, after, count, stride = map(int, row.split())
            for index in range(count):
                layers.append(Inverted(before, after, stride if index == 0 else 1, expansion))
                before = after
        self.features = nn.Sequential(*layers, norm_act(before, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class Unit(nn.Module):
    """ShuffleNetV2's unit."""

    def __init__(self, before, after, stride):
        super().__init__()
        half, self.stride = after // 2, stride
        entering = before if stride == 2 else half
        if stride == 2:
            self.branch1 = nn.Sequential(
                *norm_act(before, before, 3, 2, before, None), *norm_act(before, half, 1, act=nn.ReLU)
            )
        self.branch2 = nn.Sequential(
            *norm_act(entering, half, 1, act=nn.ReLU),
            *norm_act(half, half, 3, stride, half, None),
            *norm_act(half, half, 1, act=nn.ReLU),
        )

    def forward(self, x):
        if self.stride == 2:
            halves = self.branch1(x), self.branch2(x)
        else:
            kept, changed = x.chunk(2, 1)
            halves = kept, self.branch2(changed)
        n, c, h, w = halves[0].shape
        return torch.stack(halves, 2).reshape(n, 2 * c, h, w)


class ShuffleNetV2(nn.Module):
    """The network with these channels a stage."""

    def __init__(self, widths, last, classes):
        super().__init__()
        self.conv1, before = norm_act(3, 24, 3, 2, act=nn.ReLU), 24
        for stage, (after, count) in enumerate(zip(widths, (4, 8, 4), strict=True)):
            units = [Unit(before, after, 2), *(Unit(after, after, 1) for _ in range(count - 1))]
            setattr(self, f"stage{stage + 2}", nn.Sequential(*units))
            before = after
        self.conv5, self.fc = norm_act(before, last, 1, act=nn.ReLU), nn.Linear(last, classes)

    def forward(self, x):
        x = functional.max_pool2d(self.conv1(x), 3, 2, 1)
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        return self.fc(x.mean((2, 3)))


NETWORKS = {
    "resnet18": lambda classes: ResNet((2, 2, 2, 2), False, classes),
    "resnet34": lambda classes: ResNet((3, 4, 6, 3), False, classes),
    "resnet50": lambda classes: ResNet((3, 4, 6, 3), True, classes),
    "mobilenet_v2": MobileNetV2,
    "shufflenet_v2": lambda classes: ShuffleNetV2((116, 232, 464), 1024, classes),
}


def random_network(name, classes, seed=0):
    """A network in evaluation mode whose weights and batch statistics are all drawn at random, of a sane size."""
    torch.manual_seed(seed)
    network = NETWORKS[name](classes).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network
