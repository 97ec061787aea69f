"""Numbers, points and geometry from URLs."""

import pytest

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import Box
from dvidzarr.http.params import (
    block_refusal,
    is_throttle,
    parse_float,
    parse_floats3,
    parse_geometry,
    parse_int,
    parse_point,
    parse_point3,
    parse_shape,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("+7", 7), ("-7", -7), ("0007", 7), ("2147483647", 2**31 - 1), ("-2147483648", -(2**31))],
)
def test_int(text: str, value: int) -> None:
    assert parse_int(text) == value


@pytest.mark.parametrize("text", ["", "a", "1.0", "1e3", "0x10", "1_0", " 1", "--1", "١"])
def test_int_syntax(text: str) -> None:
    with pytest.raises(InvalidInputError, match="invalid syntax"):
        parse_int(text)


@pytest.mark.parametrize("text", ["2147483648", "-2147483649", "9" * 19, "9" * 5000, "0" * 5000 + "1"])
def test_int_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="value out of range") as caught:
        parse_int(text)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("text", ["nan", "inf", "-Inf", "1e999", "0x1p3", "", "1_0", "9" * 5000])
def test_float_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_float(text)


def test_floats() -> None:
    assert parse_floats3("1.5_-2_3e2") == (1.5, -2.0, 300.0)
    with pytest.raises(InvalidInputError):
        parse_floats3("1_2")


def test_points_allow_blanks() -> None:
    assert parse_point3(" 1_ -2_3 ") == (1, -2, 3)
    assert parse_point("1_2_3_4") == (1, 2, 3, 4)
    with pytest.raises(InvalidInputError, match="cannot convert '12' into a Point"):
        parse_point3("12")


@pytest.mark.parametrize("text", ["xy", "XY", "0_1", "0,1"])
def test_plane_names(text: str) -> None:
    assert parse_shape(text).axes == (0, 1)


@pytest.mark.parametrize("text", ["1_0", "zy", "", "0_1_2_3", "x" * 5000])
def test_unknown_shape(text: str) -> None:
    with pytest.raises(InvalidInputError, match="Unknown data shape specification"):
        parse_shape(text)


def test_arb_is_no_shape_here() -> None:
    with pytest.raises(InvalidInputError, match="only 2 and 3 dimensions"):
        parse_shape("arb")


def test_geometry_boxes() -> None:
    assert parse_geometry("0_1_2", "4_3_2", "10_20_-30").box == Box((-30, 20, 10), (-28, 23, 14))
    assert parse_geometry("xz", "4_2", "1_2_3").box == Box((3, 2, 1), (5, 3, 5))
    assert parse_geometry("yz", "4_2", "1_2_3").box == Box((3, 2, 1), (5, 6, 2))


def test_geometry_text() -> None:
    assert str(parse_geometry("vol", "4_2_2", "1_0_0")) == "3d volume (4,2,2) at offset (1,0,0)"
    assert str(parse_geometry("xy", "4_2", "1_0_0")) == "XY slice @ offset (1,0,0), size (4, 2)"


@pytest.mark.parametrize(
    ("dims", "size", "offset", "message"),
    [
        ("0_1_2", "1_1", "0_0_0", r"Size must be 3 \(not 2\) dimensions"),
        ("0_1_2", "1_1_1", "0_0", "Offset must be 3d coordinate, not 2-d coordinate"),
        ("0_1_2", "12", "0_0_0", "cannot convert '12' into a Point"),
        ("xy", "1_1_1", "0_0_0", "cannot parse into a 2d point"),
        ("xy", "a", "b_0_0", 'parsing "b"'),
    ],
)
def test_bad_geometry(dims: str, size: str, offset: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        parse_geometry(dims, size, offset)


@pytest.mark.parametrize("size", ["0_4_4", "-1_4_4", "-1_-1_4"])
def test_sizes_must_be_positive(size: str) -> None:
    with pytest.raises(InvalidInputError, match="Illegal geometry requested: 3d volume"):
        parse_geometry("0_1_2", size, "0_0_0").check(1, 1000)


def test_size_limit_counts_bytes() -> None:
    geometry = parse_geometry("0_1_2", "10_10_10", "0_0_0")
    assert geometry.check(1, 1000) is geometry
    with pytest.raises(InvalidInputError, match=r"payload \(8000 bytes\) exceeds"):
        geometry.check(8, 1000)
    with pytest.raises(InvalidInputError, match="exceeds"):
        parse_geometry("0_1_2", "100000_100000_100000", "0_0_0").check(1, 3 << 30)


def test_block_refusal() -> None:
    box = parse_geometry("0_1_2", "4_2_2", "1_0_0").box
    assert block_refusal("cannot store voxels", box) == (
        "cannot store voxels in non-block aligned geometry (1,0,0) -> (4,1,1)"
    )


def test_throttle_values() -> None:
    assert is_throttle("on")
    assert is_throttle("true")
    assert not is_throttle("off")
    assert not is_throttle(None)
