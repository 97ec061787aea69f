"""Pictures of slices, decoded by Pillow and tifffile."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from dvidzarr.core.errors import FormatError, InvalidInputError
from dvidzarr.wire.images import ImageFormat, decode_jpeg_gray, encode_image, encode_jpeg

PNG = ImageFormat()
RAMP = np.add.outer(np.arange(40), 3 * np.arange(64)).astype(np.uint8)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def png_header(data: bytes) -> tuple[int, int, int, int]:
    """Return (width, height, depth, color type)."""
    return struct.unpack_from(">IIBB", data, 16)


@pytest.mark.parametrize("name", ["png", "tiff", "bmp"])
def test_gray_survives_lossless_formats(name: str) -> None:
    picture = opened(encode_image(RAMP, ImageFormat(name)))
    assert picture.format == name.upper()
    np.testing.assert_array_equal(np.asarray(picture.convert("L")), RAMP)


def test_gray_of_one_row_and_of_one_pixel() -> None:
    for plane in (RAMP[:1], RAMP[:1, :1]):
        np.testing.assert_array_equal(np.asarray(opened(encode_image(plane, PNG))), plane)


def test_a_transposed_plane_is_encoded_as_it_looks() -> None:
    np.testing.assert_array_equal(np.asarray(opened(encode_image(RAMP.T, PNG))), RAMP.T)


def test_jpeg_of_gray_has_one_component() -> None:
    picture = opened(encode_jpeg(RAMP, 90))
    assert picture.mode == "L"
    assert np.abs(np.asarray(picture).astype(int) - RAMP).mean() < 3


@pytest.mark.parametrize(("quality", "same_as"), [(-3, 1), (500, 100)])
def test_jpeg_quality_is_clamped(quality: int, same_as: int) -> None:
    assert encode_jpeg(RAMP, quality) == encode_jpeg(RAMP, same_as)


def test_jpeg_beyond_its_largest_side_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="65535"):
        encode_jpeg(np.zeros((65536, 1), np.uint8))


def test_sixteen_bits_are_big_endian_in_png() -> None:
    plane = np.array([[0x0102, 0x0304]], "<u2")
    data = encode_image(plane, PNG)
    assert png_header(data) == (2, 1, 16, 0)
    np.testing.assert_array_equal(np.asarray(opened(data)), plane)


def test_four_bytes_become_rgba_in_their_order() -> None:
    data = encode_image(np.array([[0x04030201, 0]], "<u4"), PNG)
    assert png_header(data) == (2, 1, 8, 6)
    assert np.asarray(opened(data))[0].tolist() == [[1, 2, 3, 4], [0, 0, 0, 0]]


def test_opaque_pictures_lose_their_alpha() -> None:
    data = encode_image(np.array([[0xFF030201]], "<u4"), PNG)
    assert png_header(data) == (1, 1, 8, 2)
    assert np.asarray(opened(data))[0].tolist() == [[1, 2, 3]]


def test_float_is_the_bytes_of_its_value() -> None:
    assert np.asarray(opened(encode_image(np.array([[1.0]], "<f4"), PNG)))[0, 0].tolist() == [0, 0, 128, 63]


def test_eight_bytes_become_sixteen_bit_rgba() -> None:
    assert png_header(encode_image(np.array([[5]], "<u8"), PNG)) == (1, 1, 16, 6)


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<f4", "<u8"])
def test_tiff_holds_the_bytes_of_every_type(dtype: str) -> None:
    plane = np.arange(6, dtype=dtype).reshape(2, 3)
    samples = tifffile.imread(io.BytesIO(encode_image(plane, ImageFormat("tiff"))))
    expected = plane.view(">u2") if dtype == "<u8" else plane.view("u1") if plane.itemsize == 4 else plane
    np.testing.assert_array_equal(samples.reshape(expected.shape), expected)


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<u8"])
@pytest.mark.parametrize("name", ["jpeg", "bmp"])
def test_wide_types_are_drawn_as_colour(dtype: str, name: str) -> None:
    assert opened(encode_image(np.full((8, 8), 77, dtype), ImageFormat(name))).mode == "RGB"


def test_gray_jpeg_round_trip() -> None:
    assert np.abs(decode_jpeg_gray(encode_jpeg(RAMP, 95), 40, 64).astype(int) - RAMP).mean() < 2


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8\xff", encode_jpeg(RAMP)[:300], encode_jpeg(np.zeros((40, 63), np.uint8))],
    ids=["empty", "start only", "truncated", "other size"],
)
def test_jpeg_refuses(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_jpeg_gray(data, 40, 64)


def test_jpeg_in_colour_is_refused() -> None:
    with pytest.raises(FormatError, match="expected gray"):
        decode_jpeg_gray(encode_jpeg(np.zeros((8, 8), "<u4")), 8, 8)
