"""Small files that would take minutes or gigabytes are refused from their headers; what cameras write is not."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from imgrank.config import DecodeSettings
from imgrank.errors import ImageError
from imgrank.images import colour, limits
from imgrank.images.decode import decode_bytes
from imgrank.images.directories import claims_too_much
from imgrank.images.limits import jpeg2000_tiles, jpeg_scans


def refusal(data, settings=None):
    with pytest.raises(ImageError) as caught:
        decode_bytes(data, "some.jpg", settings or DecodeSettings())
    return caught.value.code, caught.value.reason


def directory(entries, following=0):
    """A little-endian TIFF header and directory of (tag, type, count, value or offset)."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", following)


def hostile_directory(count=300):
    """Each entry claims the bytes of all of them."""
    return directory([(1000 + tag, 7, 12 * count, 8) for tag in range(count)])


@pytest.fixture
def progressive(encode, quarters):
    """A progressive JPEG, and its last scan."""
    data = encode(quarters(), "JPEG", progressive=True)
    return data, data[data.rindex(b"\xff\xda") : -2]


def test_scans_are_counted_to_the_end_of_the_image(encode, quarters, progressive):
    data, scan = progressive
    assert jpeg_scans(encode(quarters(), "JPEG")) == 1
    assert jpeg_scans(data) == data.count(b"\xff\xda") == 10
    assert jpeg_scans(data[:-2] + scan * 5 + data[-2:] + scan * 7) == 15
    assert jpeg_scans(b"\xff\xd8\xff") == 0


def test_a_jpeg_of_many_scans_is_refused(progressive):
    data, scan = progressive
    code, reason = refusal(data[:-2] + scan * 91 + data[-2:])
    assert code == "too-large"
    assert reason.startswith("101 JPEG scans, the limit is 100")
    decode_bytes(data[:-2] + scan * 90 + data[-2:], "x", DecodeSettings())


def test_what_lies_behind_a_jpeg_is_no_scan(encode, quarters, settings):
    # As in photos with a film behind them.
    assert decode_bytes(encode(quarters(), "JPEG") + b"\xff\xda\0\0" * 500, "x", settings).width == 48


@pytest.mark.parametrize(("grid", "offsets", "expected"), [((9, 7), (0, 0), (9, 63)), ((9, 7), (3, 0), (9, 42))])
def test_tiles_of_jpeg_2000(grid, offsets, expected):
    # 9 x 7 in tiles of 3 x 3: three across and, the last one cut, three down.
    siz = struct.pack(">HH8I", 47, 0, *grid, *offsets, 3, 3, 0, 0)
    assert jpeg2000_tiles(b"boxes" + b"\xff\x4f\xff\x51" + siz) == expected
    assert jpeg2000_tiles(b"boxes") == (0, 0)


def test_a_jpeg_2000_of_one_pixel_tiles_is_refused(encode, settings):
    data = bytearray(encode(np.zeros((200, 200, 3), dtype=np.uint8), "JPEG2000", tile_size=(64, 64)))
    at = data.index(b"\xff\x51") + 22
    assert decode_bytes(bytes(data), "x", settings).width == 200
    data[at : at + 8] = struct.pack(">II", 1, 1)
    assert refusal(bytes(data)) == ("too-large", "40000 tiles for 40000 pixels are too many; export it again")


def test_a_tiff_tile_larger_than_the_limit_is_refused(settings):
    packed = zlib.compress(bytes(64 * 64))

    def tiff(side):
        entries = [(256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
        entries += [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 134), (325, 4, 1, len(packed))]
        return directory(entries) + packed  # 8 + 2 + 10 x 12 + 4 = 134

    assert decode_bytes(tiff(64), "x", settings).pixels.shape == (1, 1, 3)
    code, reason = refusal(tiff(20_000))
    assert code == "too-large"
    assert "20000 x 20000" in reason


def bmp(width, height, packing, content):
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, packing, len(content), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(content), 0, 0, 1078) + header + bytes(1024) + content


def test_a_large_run_length_coded_bmp_is_refused(settings):
    rows = b"\3\0\0\0" * 2  # three pixels and the end of the line
    assert decode_bytes(bmp(3, 2, 1, rows), "x", settings).pixels.shape == (2, 3, 3)
    code, reason = refusal(bmp(10_000, 2_001, 1, rows))
    assert (code, reason.split(",")[0]) == ("too-large", "20.0 megapixels of run-length coded BMP")
    assert refusal(bmp(10_000, 2_001, 0, rows))[0] == "truncated"  # not coded: read, and found to end early


def test_a_side_that_no_photo_has_is_refused_whatever_the_limit(encode):
    assert decode_bytes(encode(np.zeros((1, 70_000), np.uint8), "PNG"), "x", DecodeSettings(), 512).width == 70_000
    line = encode(np.zeros((1, limits.MAX_SIDE + 1), np.uint8), "PNG")
    for settings in (DecodeSettings(), DecodeSettings(max_megapixels=0)):
        assert refusal(line, settings)[0] == "too-large"


def test_tags_that_claim_the_file_again_and_again():
    assert claims_too_much(hostile_directory())
    assert claims_too_much(b"Exif\0\0" * 2 + hostile_directory())
    assert not claims_too_much(hostile_directory(2))  # 2 x 24 of 38 bytes
    for ordinary in (b"", b"II*\0", b"MM\0*\xff\xff\xff\xff" + bytes(20), b"text" * 100):
        assert not claims_too_much(ordinary)
    swapped = b"MM\0*" + struct.pack(">IH", 8, 300) + struct.pack(">HHII", 1, 7, 3600, 8) * 300
    assert claims_too_much(swapped)
    big = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 300) + struct.pack("<HHQQ", 1, 7, 6000, 8) * 300
    assert claims_too_much(big)


def test_nested_directories_count_and_their_loops_end():
    assert not claims_too_much(directory([(0x8769, 4, 1, 8), (0x8825, 4, 1, 8)]))
    outer = directory([(0x8769, 4, 1, 26)])  # 8 + 2 + 12 + 4
    inner = hostile_directory()[8:]
    assert claims_too_much(outer + inner)
    assert not claims_too_much(outer + bytes(len(inner)))


def test_a_tiff_of_hostile_tags_is_refused():
    assert refusal(hostile_directory())[0] == "too-large"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_hostile_exif_is_left_out_and_the_photo_kept(format, encode, quarters, settings, monkeypatch):
    pixels = quarters()
    data = encode(pixels, format, exif=hostile_directory(), **({"lossless": True} if format == "WEBP" else {}))
    if format == "JPEG":  # without a density, Pillow looks into EXIF for one while it opens
        at = data.index(b"\xff\xe0")
        data = data[:at] + data[at + 18 :]
    read = []
    monkeypatch.setattr(TiffImagePlugin.ImageFileDirectory_v2, "load", lambda *_: read.append(1))
    photo = decode_bytes(data, "x", settings)
    assert read == []
    assert photo.pixels.shape == pixels.shape


def test_pixels_as_text_with_many_comments_are_read_in_linear_time(settings):
    plain = b"P2 3 2 255\n0 10 20\n30 40 50\n"
    expected = decode_bytes(plain, "x", settings).pixels
    assert expected[..., 0].tolist() == [[0, 10, 20], [30, 40, 50]]
    start = time.process_time()
    commented = plain.replace(b"\n", b"\n" + b"#\n" * 300_000, 2).replace(b"20", b"2#x\r0")
    np.testing.assert_array_equal(decode_bytes(commented, "x", settings).pixels, expected)
    assert time.process_time() - start < 5  # Pillow alone copies 100 GB
    binary = b"P5 2 1 255\n#\n"
    assert decode_bytes(binary, "x", settings).pixels[..., 0].tolist() == [[35, 10]]  # no comment there


@pytest.mark.parametrize("dtype", ["<f4", "<i4", "<u2"])
def test_grey_does_not_depend_on_the_bands_it_is_converted_in(dtype, settings, monkeypatch):
    values = np.random.default_rng(0).integers(0, 60_000, (7, 5)).astype(dtype)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")
    whole = decode_bytes(buffer.getvalue(), "x", settings).pixels
    assert len(np.unique(whole)) > 20
    monkeypatch.setattr(colour, "_BAND", 11)  # two rows, and one in the end
    np.testing.assert_array_equal(decode_bytes(buffer.getvalue(), "x", settings).pixels, whole)


def test_libtiff_and_pillow_write_nothing_by_themselves(encode, quarters, settings, capfd):
    data = bytearray(encode(quarters(), "TIFF", compression="tiff_adobe_deflate"))
    tags = Image.open(io.BytesIO(bytes(data))).tag_v2
    at = tags[273][0]
    data[at : at + 20] = b"\xff" * 20
    assert refusal(bytes(data))[0] == "truncated"
    samples = directory([(256, 4, 1, 8), (257, 4, 1, 8), (259, 3, 1, 1), (277, 3, 1, 65_535), (273, 4, 1, 8)])
    assert refusal(samples)[0] == "truncated"
    assert capfd.readouterr().err == ""
