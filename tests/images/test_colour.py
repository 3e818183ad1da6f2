import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from imgrank.images.decode import decode_bytes


def grey_of(data, settings):
    pixels = decode_bytes(data, "x", settings).pixels
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., 0].tolist()


SIXTEEN = np.array([[0, 255, 256, 0x1234], [0x7FFF, 0x8000, 0xFF00, 0xFFFF]], dtype=np.uint16)
HIGH_BYTES = [[0, 0, 1, 0x12], [0x7F, 0x80, 0xFF, 0xFF]]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_grey_keeps_the_high_byte(format, encode, settings):
    assert grey_of(encode(SIXTEEN, format), settings) == HIGH_BYTES


def png(width, height, depth, colour, rows, extra=b""):
    """Write a PNG by hand: Pillow does not write 16-bit colour."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + body + chunk(b"IEND", b"")


def test_16_bit_colour_keeps_the_high_byte(settings):
    row = np.array([0x1234, 0x8000, 0xFFFF, 0x0001, 0x00FF, 0x0100], dtype=">u2").tobytes()
    photo = decode_bytes(png(2, 1, 16, 2, [row]), "x", settings)
    assert photo.pixels.tolist() == [[[0x12, 0x80, 0xFF], [0, 0, 1]]]


def test_16_bit_grey_and_16_bit_colour_agree(encode, settings):
    rows = [np.repeat(row, 3).astype(">u2").tobytes() for row in SIXTEEN]
    assert grey_of(png(4, 2, 16, 2, rows), settings) == grey_of(encode(SIXTEEN, "PNG"), settings)


def test_16_bit_grey_with_alpha_is_laid_on_white(settings):
    row = np.array([0x0000, 0xFFFF, 0x0000, 0x0000, 0x8000, 0xFFFF], dtype=">u2").tobytes()  # (value, alpha) pairs
    assert grey_of(png(3, 1, 16, 4, [row]), settings) == [[0, 255, 0x80]]


def tiff(bits, values, *, photometric=1, sample_format=1, width, height):
    """Write an uncompressed grey little-endian TIFF by hand, one strip."""
    tags = [
        (256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
        (273, 4, 8 + 2 + 12 * 10 + 4), (277, 3, 1), (278, 4, height), (279, 4, len(values)), (339, 3, sample_format),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4) + values


def test_tiff_of_12_bits_keeps_the_high_8(settings):
    packed = bytes([0x12, 0x3F, 0xFF, 0x80, 0x00, 0x01])  # 0x123, 0xFFF, 0x800, 0x001
    assert grey_of(tiff(12, packed, width=4, height=1), settings) == [[0x12, 0xFF, 0x80, 0]]


def test_tiff_where_zero_is_white_is_turned_round(settings):
    for bits, dtype, top in ((8, "<u1", 255), (16, "<u2", 65535)):
        values = np.array([0, top], dtype=dtype).tobytes()
        assert grey_of(tiff(bits, values, photometric=0, width=2, height=1), settings) == [[255, 0]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 10.0, 255.0], [0, 10, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-1.0, 0.0, 3.0], [0, 64, 255]),
        ([np.nan, 0.0, 1.0], [0, 0, 255]),
        ([-np.inf, 0.25, np.inf], [0, 64, 255]),
        ([3e30, -3e38, 3e38], [128, 0, 255]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
    ],
)
def test_floating_point_grey(values, expected, settings):
    data = tiff(32, np.array(values, dtype="<f4").tobytes(), sample_format=3, width=3, height=1)
    assert grey_of(data, settings) == [expected]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 1, 255], [0, 1, 255]), ([0, 257, 65535], [0, 1, 255]), ([-100, 0, 300], [0, 64, 255])],
)
def test_32_bit_integer_grey(values, expected, settings):
    data = tiff(32, np.array(values, dtype="<i4").tobytes(), sample_format=2, width=3, height=1)
    assert grey_of(data, settings) == [expected]


def test_bilevel(encode, settings):
    image = Image.fromarray(np.array([[True, False]]))
    assert grey_of(encode(image, "PNG"), settings) == [[255, 0]]
    assert grey_of(encode(image, "TIFF"), settings) == [[255, 0]]


def test_alpha_is_laid_on_white(encode, settings):
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    for format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        photo = decode_bytes(encode(pixels, format, **options), "x", settings)
        # 128 / 255 of black on white: 255 - 128 = 127
        assert photo.pixels.tolist() == [[[10, 20, 30], [255, 255, 255], [127, 127, 127]]], format


def test_palettes_with_and_without_transparency(encode, settings):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    opaque = [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    holed = [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]
    for format in ("PNG", "GIF", "TIFF", "BMP"):
        assert decode_bytes(encode(image, format), "x", settings).pixels.tolist() == opaque, format
    for format in ("PNG", "GIF"):
        assert decode_bytes(encode(image, format, transparency=1), "x", settings).pixels.tolist() == holed, format
    graded = encode(image, "PNG", transparency=bytes([255, 0, 51]))  # 51 / 255 = 0.2 of blue on white
    assert decode_bytes(graded, "x", settings).pixels.tolist() == [[[255, 0, 0], [255, 255, 255], [204, 204, 255]]]


def test_a_transparent_colour(encode, settings):
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    data = encode(image, "PNG", transparency=(1, 2, 3))
    assert decode_bytes(data, "x", settings).pixels.tolist() == [[[255, 255, 255], [4, 5, 6]]]


def test_a_transparent_colour_of_16_bits_is_ignored(settings):
    row = np.array([0x1234, 0x1234, 0x1234, 0xFFFF, 0, 0], dtype=">u2").tobytes()
    content = struct.pack(">HHH", 0x1234, 0x1234, 0x1234)
    trns = struct.pack(">I", 6) + b"tRNS" + content + struct.pack(">I", zlib.crc32(b"tRNS" + content))
    photo = decode_bytes(png(2, 1, 16, 2, [row], trns), "x", settings)
    assert photo.pixels.tolist() == [[[0x12] * 3, [0xFF, 0, 0]]]


def test_cmyk_is_ink_not_light(encode, settings):
    # Cyan, magenta, yellow, black, no ink.
    inks = [(255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (0, 0, 0, 0)]
    light = [(0, 255, 255), (255, 0, 255), (255, 255, 0), (0, 0, 0), (255, 255, 255)]
    image = Image.new("CMYK", (80, 16))
    for index, ink in enumerate(inks):
        image.paste(ink, (16 * index, 0, 16 * index + 16, 16))
    for format, options in (("TIFF", {}), ("JPEG", {"quality": 100})):  # JPEG stores it inverted, as Adobe does
        pixels = decode_bytes(encode(image, format, **options), "x", settings).pixels
        np.testing.assert_allclose(pixels[8, 8::16], light, atol=3, err_msg=format)


def test_lab(encode, settings):
    image = Image.new("LAB", (2, 1))
    image.putdata([(255, 128, 128), (0, 128, 128)])  # L* 100 and 0; Pillow stores a* = b* = 0 as 128
    lab = encode(image, "TIFF")
    photo = decode_bytes(lab, "x", settings)
    assert photo.pixels.shape == (1, 2, 3)
    assert photo.pixels[0, 0].min() > photo.pixels[0, 1].max()


def profile_with(red, green, blue):
    """Build an ICC v2 profile by hand: sRGB-like curve of gamma 1.0 and the given primaries as D50 XYZ columns."""

    def s15(*values):
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    def xyz(values):
        return b"XYZ \0\0\0\0" + s15(*values)

    text = b"made by hand"
    desc = b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(4 + 4 + 2 + 1 + 67)
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)  # no entries: the identity
    parts = {
        b"desc": desc, b"wtpt": xyz((0.9642, 1.0, 0.8249)), b"rXYZ": xyz(red), b"gXYZ": xyz(green), b"bXYZ": xyz(blue),
        b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, b"cprt": b"text\0\0\0\0none\0",
    }  # fmt: skip
    table, body, at = b"", b"", 128 + 4 + 12 * len(parts)
    for tag, content in parts.items():
        content += bytes(-len(content) % 4)
        table += tag + struct.pack(">II", at + len(body), len(content))
        body += content
    size = at + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + s15(0.9642, 1.0, 0.8249)
    header += bytes(128 - len(header))
    return header + struct.pack(">I", len(parts)) + table + body


SRGB_PRIMARIES = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))  # D50


def test_a_colour_profile_is_applied(encode, settings):
    """Linear light with sRGB's primaries: the result is sRGB's own curve, 1.055 v^(1/2.4) - 0.055."""
    values = np.array([[[0, 0, 0], [64, 64, 64], [128, 128, 128], [255, 255, 255]]], dtype=np.uint8)
    linear = values / 255
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    for format in ("PNG", "TIFF"):
        data = encode(values, format, icc_profile=profile_with(*SRGB_PRIMARIES))
        photo = decode_bytes(data, "x", settings)
        np.testing.assert_allclose(photo.pixels, expected, atol=2, err_msg=format)


def test_an_srgb_profile_changes_nothing(encode, settings, quarters):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encode(quarters(), "PNG", icc_profile=srgb)
    np.testing.assert_array_equal(decode_bytes(data, "x", settings).pixels, quarters())


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
@pytest.mark.parametrize(
    "profile", [b"garbage", profile_with(*SRGB_PRIMARIES)[:200], bytes(5_000_000)], ids=["text", "cut", "oversized"]
)
def test_a_broken_profile_never_costs_the_photo(profile, mode, encode, settings, quarters):
    image = Image.fromarray(quarters()).convert(mode)
    with_profile = decode_bytes(encode(image, "PNG", icc_profile=profile), "x", settings)
    without = decode_bytes(encode(image, "PNG"), "x", settings)
    np.testing.assert_array_equal(with_profile.pixels, without.pixels)


def test_a_profile_for_another_colour_space_is_ignored(encode, settings):
    grey = np.array([[0, 100, 255]], dtype=np.uint8)
    data = encode(grey, "PNG", icc_profile=profile_with(*SRGB_PRIMARIES))
    assert grey_of(data, settings) == [[0, 100, 255]]


def test_hostile_or_damaged_text_does_not_cost_the_photo(settings):
    def chunk(kind, content, crc=None):
        crc = zlib.crc32(kind + content) if crc is None else crc
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000)))
    damaged = chunk(b"tEXt", b"Comment\0hello", crc=1)
    for extra in (bomb, damaged, bomb * 3):
        photo = decode_bytes(png(2, 1, 8, 0, [b"\x01\x02"], extra), "x", settings)
        assert photo.pixels[0, :, 0].tolist() == [1, 2]


def test_transforms_are_kept_apart_by_profile_and_mode(encode, settings):
    values = np.full((1, 1, 3), (200, 100, 50), dtype=np.uint8)
    red, green, blue = SRGB_PRIMARIES
    swapped = encode(values, "PNG", icc_profile=profile_with(blue, green, red))
    straight = encode(values, "PNG", icc_profile=profile_with(red, green, blue))
    for _ in range(2):
        a = decode_bytes(straight, "x", settings).pixels[0, 0]
        b = decode_bytes(swapped, "x", settings).pixels[0, 0]
        np.testing.assert_allclose(a, b[::-1], atol=1)
