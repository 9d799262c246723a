"""MXFP4 decoding for every byte and every scale, against the numbers spelled out."""

import math

import pytest
import torch

from gpt_oss_stories.interop.mxfp4 import decode_mxfp4


def e2m1(code: int) -> float:
    """A four-bit float from its bits: sign, two of exponent (bias 1), one of mantissa; exponent 0 is subnormal."""
    sign, exponent, mantissa = code >> 3, code >> 1 & 3, code & 1
    size = mantissa * 0.5 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1)
    return -size if sign else size


def test_every_byte_at_every_scale():
    blocks = torch.arange(256, dtype=torch.uint8).view(16, 16)
    for scale in range(256):
        got = decode_mxfp4(blocks, torch.full((16,), scale, dtype=torch.uint8)).view(256, 2)
        if scale == 255:
            assert got.isnan().all()
            continue
        low = torch.tensor([e2m1(byte & 15) * 2.0 ** (scale - 127) for byte in range(256)], dtype=torch.float64)
        high = torch.tensor([e2m1(byte >> 4) * 2.0 ** (scale - 127) for byte in range(256)], dtype=torch.float64)
        # float32 cannot hold the largest values of scale 254: infinity is their rounding.
        assert torch.equal(got[:, 0], low.float())
        assert torch.equal(got[:, 1], high.float())
        assert math.copysign(1, got[128, 1].item()) == -1  # byte 0x80: the high code is minus zero


def test_each_block_has_its_own_scale():
    blocks = torch.full((2, 16), 0x22, dtype=torch.uint8)  # every value 1.0
    got = decode_mxfp4(blocks, torch.tensor([127, 130], dtype=torch.uint8))
    assert got.shape == (64,)
    assert got[:32].eq(1).all()
    assert got[32:].eq(8).all()


def test_wrong_shapes_and_dtypes_are_refused():
    blocks, scales = torch.zeros(2, 16, dtype=torch.uint8), torch.zeros(2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="bytes"):
        decode_mxfp4(blocks.int(), scales)
    with pytest.raises(ValueError, match="do not go with"):
        decode_mxfp4(blocks, scales[:1])
