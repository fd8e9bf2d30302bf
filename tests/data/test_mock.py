"""The mock data are real files, the same every time, of every kind that ImageNet has."""

import collections
import io

import pytest
from PIL import Image

from lglsq_jax.data.mock import mock_imagenet
from lglsq_jax.errors import UserError


def test_the_same_arguments_write_the_same_files(tmp_path):
    roots = [
        mock_imagenet(tmp_path / name, classes=2, train=12, val=3, seed=seed)
        for name, seed in zip("abc", (0, 0, 1), strict=True)
    ]
    contents = [{file.relative_to(root): file.read_bytes() for file in root.rglob("*.JPEG")} for root in roots]
    assert len(contents[0]) == 30
    assert contents[0] == contents[1] != contents[2]
    pictures = [Image.open(io.BytesIO(content)) for content in contents[0].values()]
    modes = collections.Counter(picture.mode for picture in pictures)
    assert modes["RGB"] > 20 and modes["L"] >= 2 and modes["CMYK"] >= 2
    assert len({picture.size for picture in pictures}) > 20
    with pytest.raises(UserError, match="`folder` must be new or empty"):
        mock_imagenet(roots[0])
