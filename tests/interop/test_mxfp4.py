"""MXFP4 for every byte and every scale, against the numbers spelled out; encoding against trying everything."""

import math

import pytest
import torch

from gpt_oss_stories.interop.mxfp4 import decode_mxfp4, encode_mxfp4


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


VALUES = torch.tensor([e2m1(code) for code in range(16)], dtype=torch.float64)


def block_error(values: torch.Tensor, scale: int) -> torch.Tensor:
    """Least possible sum of squared errors of each block (N, 32) at one scale, by trying every code for every value."""
    distance = (values.double()[..., None] - VALUES * 2.0 ** (scale - 127)).abs()
    return distance.amin(-1).square().sum(-1)


@pytest.mark.parametrize("kind", ["normal", "grid", "one large", "between", "tiny", "zero"])
def test_encoding_chooses_the_nearest_values_at_the_best_scale(kind):
    generator = torch.Generator().manual_seed(7)
    normal = torch.randn(200, 32, generator=generator) * 10 ** (3 * torch.randn(200, 1, generator=generator))
    values = {
        "normal": normal,
        "grid": torch.randint(-16, 17, (200, 32), generator=generator) / 4.0,
        "one large": torch.cat((normal[:, :1] * 40, normal[:, 1:]), 1),
        # Values half-way between the finer steps, beside one for which the finer scale is just too small.
        "between": 0.25 + 0.5 * torch.randint(0, 8, (200, 32), generator=generator) + torch.eye(32)[0] * 4.2,
        "tiny": normal.abs() / normal.abs().amax(1, keepdim=True) * 2.0**-125,
        "zero": torch.zeros(200, 32),
    }[kind]
    blocks, scales = encode_mxfp4(values)
    assert blocks.shape == (200, 1, 16)
    assert scales.shape == (200, 1)
    error = (decode_mxfp4(blocks, scales) - values).double().square().sum(-1)
    best = torch.stack([block_error(values, scale) for scale in range(255)]).amin(0)
    torch.testing.assert_close(error, best, rtol=1e-5, atol=0)


def test_what_was_decoded_is_encoded_to_the_same_values():
    blocks = torch.arange(256, dtype=torch.uint8).view(16, 1, 16).expand(16, 250, 16)
    # Above 252, float32 has no room for all of a block's values.
    scales = torch.arange(1, 251, dtype=torch.uint8).expand(16, 250)
    values = decode_mxfp4(blocks, scales)
    assert torch.equal(decode_mxfp4(*encode_mxfp4(values)), values)


def test_ties_go_to_the_even_mantissa():
    values = torch.zeros(1, 32)
    values[0, 0] = 6.0  # makes 1 the best scale
    values[0, 1:8] = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    blocks, scales = encode_mxfp4(values)
    assert scales.item() == 127
    assert decode_mxfp4(blocks, scales)[0, 1:8].tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]


def test_what_cannot_be_encoded_is_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        encode_mxfp4(torch.zeros(4, 33))
    with pytest.raises(ValueError, match="finite"):
        encode_mxfp4(torch.full((1, 32), torch.inf))
