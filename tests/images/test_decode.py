import hashlib
import io
import os
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from PIL import Image, features

from imgrank.config import DecodeSettings
from imgrank.errors import ImageError, SettingsError
from imgrank.images.decode import decode, decode_bytes, read_photo
from imgrank.records import NO_DIGEST, STATUS_NAMES

LOSSLESS = {
    "PNG": {},
    "TIFF": {},
    "BMP": {},
    "PPM": {},
    "WEBP": {"lossless": True},
    "JPEG2000": {},
}
LOSSY = {"JPEG": {"quality": 95, "subsampling": 0}, "AVIF": {"quality": 95, "subsampling": "4:4:4"}}


@pytest.mark.parametrize("format", LOSSLESS)
def test_lossless_formats_give_back_the_pixels(format, encode, settings):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    photo = decode_bytes(encode(pixels, format, **LOSSLESS[format]), "x", settings)
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert (photo.width, photo.height) == (53, 37)
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.flags.c_contiguous
    assert photo.pixels.flags.writeable


@pytest.mark.parametrize("format", LOSSY)
def test_lossy_formats_come_close(format, encode, settings, quarters):
    pixels = quarters()
    photo = decode_bytes(encode(pixels, format, **LOSSY[format]), "x", settings)
    assert photo.pixels.shape == pixels.shape
    flat = np.abs(photo.pixels.astype(int) - pixels)[2:14, 2:22]  # inside a quarter
    assert flat.max() <= 6


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}])
def test_tiff_gives_its_first_page(options, encode, settings, quarters):
    other = Image.new("RGB", (5, 5))
    data = encode(quarters(), "TIFF", save_all=True, append_images=[other], **options)
    np.testing.assert_array_equal(decode_bytes(data, "x", settings).pixels, quarters())


def test_animations_give_their_first_frame(encode, settings, quarters):
    first = Image.fromarray(quarters())
    second = Image.new("RGB", first.size, (9, 9, 9))
    for format, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        data = encode(first, format, save_all=True, append_images=[second], duration=100, **options)
        np.testing.assert_array_equal(decode_bytes(data, "x", settings).pixels, quarters(), err_msg=format)


# What the EXIF orientation says must be done to the stored pixels (EXIF 2.3, 4.6.4), with numpy alone.
TURNS = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),  # a quarter turn clockwise
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),  # a quarter turn counter-clockwise
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
def test_exif_orientation(format, orientation, encode, settings, quarters):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = quarters(32, 48)
    options = {**LOSSLESS, **LOSSY}[format]
    photo = decode_bytes(encode(stored, format, exif=exif, **options), "x", settings)
    expected = TURNS[orientation](stored)
    assert (photo.height, photo.width) == expected.shape[:2]
    assert photo.pixels.shape == expected.shape
    difference = np.abs(photo.pixels.astype(int) - expected)
    if format in LOSSLESS:
        assert difference.max() == 0
    else:
        assert difference.mean() < 8  # a wrong turn is above 100


def test_the_full_size_is_upright_when_the_pixels_are_reduced(encode, settings):
    exif = Image.Exif()
    exif[0x0112] = 6
    for format in ("JPEG", "PNG", "TIFF"):
        data = encode(np.zeros((200, 400, 3), dtype=np.uint8), format, exif=exif)
        photo = decode_bytes(data, "x", settings, longer_side=40)
        assert (photo.width, photo.height, photo.pixels.shape) == (200, 400, (40, 20, 3)), format


def test_damaged_exif_does_not_cost_the_photo(encode, settings, quarters):
    data = encode(quarters(), "PNG", exif=b"Exif\0\0garbage that is no TIFF header")
    np.testing.assert_array_equal(decode_bytes(data, "x", settings).pixels, quarters())


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("side", [10, 33, 100, 333, 799])
def test_longer_side_reduces_to_the_size_and_keeps_the_picture_in_place(format, side, encode, settings):
    # A ramp: any shift or stretch of the reduced picture shows as another grey level.
    ramp = np.linspace(0, 255, 801)[None, :].repeat(603, axis=0)
    pixels = np.repeat(ramp.astype(np.uint8)[..., None], 3, axis=2)
    photo = decode_bytes(encode(pixels, format, **({"quality": 95} if format == "JPEG" else {})), "x", settings, side)
    assert (photo.width, photo.height) == (801, 603)
    assert photo.pixels.shape[1] == side
    centers = (np.arange(side) + 0.5) * 801 / side - 0.5
    margin = max(2, side // 10)
    row = photo.pixels[photo.pixels.shape[0] // 2, margin:-margin, 1]
    np.testing.assert_allclose(row, centers[margin:-margin] * 255 / 800, atol=1.6)


def test_a_reduced_jpeg_is_close_to_the_reduced_full_decode(encode, settings):
    # Detail at several scales: decoding fewer pixels than now falls below 35 dB.
    pixels = np.zeros((960, 1280, 3))
    for block in (4, 16, 64):
        coarse = np.random.default_rng(block).integers(0, 86, (960 // block, 1280 // block, 3))
        pixels += coarse.repeat(block, axis=0).repeat(block, axis=1)
    data = encode(pixels.astype(np.uint8), "JPEG", quality=90)
    full = Image.fromarray(decode_bytes(data, "x", settings).pixels)
    for side in (90, 133, 200, 330, 480, 800):
        reduced = decode_bytes(data, "x", settings, side).pixels
        whole = np.asarray(full.resize(reduced.shape[1::-1], Image.Resampling.LANCZOS))
        mean_square = ((reduced.astype(float) - whole) ** 2).mean()
        assert 10 * np.log10(255**2 / max(mean_square, 1e-9)) > 39, side  # dB


def test_photos_are_never_enlarged_and_one_pixel_is_enough(encode, settings):
    for format in (*LOSSLESS, *LOSSY, "GIF"):
        photo = decode_bytes(encode(np.full((1, 1, 3), 255, dtype=np.uint8), format), "x", settings, 480)
        assert photo.pixels.shape == (1, 1, 3), format
        assert photo.pixels.min() >= 250, format


def test_equal_bytes_give_equal_pixels(encode, settings):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    data = encode(pixels, "JPEG")
    for side in (None, 100):
        first, second = (decode_bytes(data, "x", settings, side).pixels for _ in range(2))
        np.testing.assert_array_equal(first, second)


def test_the_content_decides_not_the_name(tmp_path, encode, settings, quarters):
    path = tmp_path / "photo.gif"
    path.write_bytes(encode(quarters(), "PNG"))
    np.testing.assert_array_equal(decode(path, settings).pixels, quarters())
    np.testing.assert_array_equal(decode(str(path), settings).pixels, quarters())


def test_the_record_of_a_photo(tmp_path, encode, settings, quarters):
    data = encode(quarters(30, 40), "PNG")
    path = os.fsencode(tmp_path) + b"/caf\xe9 'a\" \n.jpg"
    with open(path, "wb") as file:
        file.write(data)
    os.utime(path, ns=(1, 1_600_000_000_123_456_789))
    loaded = read_photo(path, settings, 20)
    record = loaded.record
    assert loaded.error is None
    assert loaded.photo.pixels.shape == (15, 20, 3)
    assert record.path == path
    assert (record.size, record.mtime_ns) == (len(data), os.stat(path).st_mtime_ns)
    assert record.digest == hashlib.blake2b(data, digest_size=16).digest()
    assert (record.width, record.height, record.status) == (40, 30, 0)


def test_the_record_of_what_is_no_photo(tmp_path, settings):
    path = tmp_path / "notes\n.jpg"
    path.write_bytes(b"just text")
    loaded = read_photo(path, settings)
    assert loaded.photo is None
    assert STATUS_NAMES[loaded.record.status] == loaded.error.code == "not-an-image"
    assert loaded.record.digest == hashlib.blake2b(b"just text", digest_size=16).digest()
    assert (loaded.record.size, loaded.record.width, loaded.record.height) == (9, 0, 0)
    assert "notes\\n.jpg" in str(loaded.error)
    assert "\n" not in str(loaded.error)
    assert loaded.error.__traceback__ is None


def failure(data, settings, **options):
    with pytest.raises(ImageError) as caught:
        decode_bytes(data, "some.jpg", settings, **options)
    return caught.value


@pytest.mark.parametrize(
    "text", [b"hello", b"BMW and others, a text about cars\n", b"P3 is a station", b"RIFF", b"\xff\xd8", b"<svg/>"]
)
def test_text_is_not_an_image(text, settings):
    assert failure(text, settings).code == "not-an-image"


def test_an_empty_file_is_named(settings):
    error = failure(b"", settings)
    assert (error.code, error.reason) == ("not-an-image", "empty file")


@pytest.mark.parametrize("longer_side", [None, 40])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "AVIF", "JPEG2000", "PPM"])
def test_a_truncated_file_is_not_shown_half_grey(format, longer_side, encode, settings):
    pixels = np.random.default_rng(0).integers(0, 256, (160, 200, 3), dtype=np.uint8)
    data = encode(pixels, format)
    for keep in (0.1, 0.5, 0.9):
        error = failure(data[: int(len(data) * keep)], settings, longer_side=longer_side)
        assert error.code == "truncated", keep
        assert "damaged" in error.reason


def test_a_truncated_progressive_jpeg(encode, settings):
    pixels = np.random.default_rng(0).integers(0, 256, (160, 200, 3), dtype=np.uint8)
    data = encode(pixels, "JPEG", progressive=True)
    assert failure(data[: len(data) // 2], settings).code == "truncated"


def test_files_that_are_not_regular_are_never_opened(tmp_path, settings):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    cases = {"pipe.jpg": "named pipe", "folder.jpg": "folder", "/dev/zero": "device"}
    for name, words in cases.items():
        loaded = read_photo(tmp_path / name, settings)  # joining an absolute path gives that path
        assert loaded.error.code == "unreadable"
        assert words in loaded.error.reason
        assert loaded.record.digest == NO_DIGEST


def test_missing_and_unreadable_files(tmp_path, settings, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")
    for name in ("none.jpg", "file/none.jpg"):
        with pytest.raises(ImageError) as caught:
            decode(tmp_path / name, settings)
        assert caught.value.code == "missing"
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    for path in (tmp_path / "loop.jpg", b"a\0b", b"x" * 5000):
        assert read_photo(path, settings).error.code == "unreadable"

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # a chmod would not stop root
    error = read_photo(tmp_path / "file", settings).error
    assert (error.code, error.reason) == ("unreadable", "cannot be read: Permission denied")


def test_the_limit_is_on_pixels_and_names_its_flag(encode, quarters):
    data = encode(quarters(100, 101), "PNG")
    error = failure(data, DecodeSettings(max_megapixels=0.01))
    assert error.code == "too-large"
    assert "101 x 100" in error.reason
    assert "--max-megapixels" in error.reason
    for limit in (0.0101, 0):
        assert decode_bytes(data, "x", DecodeSettings(max_megapixels=limit)).width == 101


@pytest.mark.parametrize("format", [*LOSSLESS, *LOSSY, "GIF"])
def test_the_limit_holds_for_every_format(format, encode, quarters, monkeypatch):
    data = encode(quarters(100, 100), format)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)  # refused before anything is decoded
    assert failure(data, DecodeSettings(max_megapixels=0.009)).code == "too-large"


@pytest.mark.parametrize("format", [*LOSSLESS, *LOSSY, "GIF"])
def test_only_our_own_limit_counts(format, encode, settings, quarters, monkeypatch):
    data = encode(quarters(100, 100), format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_bytes(data, "x", settings).pixels.shape == (100, 100, 3)


@pytest.mark.parametrize(
    ("format", "options", "reader"),
    [
        ("GIF", {}, "PIL.GifImagePlugin.GifImageFile"),
        ("WEBP", {}, "PIL.WebPImagePlugin.WebPImageFile"),
        ("WEBP", {"lossless": True}, "PIL.WebPImagePlugin.WebPImageFile"),
        ("WEBP", {"exif": b"Exif"}, "PIL.WebPImagePlugin.WebPImageFile"),  # the extended header
    ],
)
def test_the_limit_comes_before_readers_that_allocate_while_opening(
    format, options, reader, encode, quarters, monkeypatch
):
    data = encode(quarters(60, 100), format, **options)
    monkeypatch.setattr(f"{reader}.__init__", None)
    error = failure(data, DecodeSettings(max_megapixels=0.005))
    assert error.code == "too-large"
    assert "100 x 60" in error.reason


def test_a_file_of_absurd_size_is_digested_but_not_kept(tmp_path):
    path = tmp_path / "huge.png"
    with open(path, "wb") as file:
        file.truncate((64 << 20) + 200_000)  # sparse
    loaded = read_photo(path, DecodeSettings(max_megapixels=0.01))
    assert loaded.error.code == "too-large"
    assert "--max-megapixels" in loaded.error.reason
    assert loaded.record.size == (64 << 20) + 200_000
    assert loaded.record.digest != NO_DIGEST


@pytest.mark.parametrize("bad", [-1.0, float("nan")])
def test_a_senseless_limit_is_refused(bad, encode, quarters):
    with pytest.raises(SettingsError, match="--max-megapixels"):
        decode_bytes(encode(quarters(), "PNG"), "x", DecodeSettings(max_megapixels=bad))


def test_a_senseless_longer_side_is_refused(encode, settings, quarters):
    with pytest.raises(SettingsError, match="longer side"):
        decode_bytes(encode(quarters(), "PNG"), "x", settings, longer_side=0)


def test_a_huge_png_is_refused_without_memory(tmp_path):
    """30,000 x 30,000 pixels of zeros: 2.6 MB of file, 2.7 GB of pixels."""
    script = textwrap.dedent("""
        import resource, struct, sys, zlib
        from imgrank.config import DecodeSettings
        from imgrank.images.decode import read_photo

        side = 30_000
        def chunk(kind, content):
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        deflate, row, packed = zlib.compressobj(1), bytes(1 + 3 * side), []
        for _ in range(200):
            packed.append(deflate.compress(row))
        idat = b"".join(packed)
        with open(sys.argv[1], "wb") as file:
            file.write(b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)))
            file.write(chunk(b"IDAT", idat) * 50)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        loaded = read_photo(sys.argv[1], DecodeSettings())
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(loaded.error.code, grown)
    """)
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "huge.png")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    code, grown = run.stdout.split()
    assert code == "too-large"
    assert int(grown) < 50_000  # KiB


def test_out_of_memory_has_its_own_code(encode, settings, quarters, monkeypatch):
    def load(self):
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    error = failure(encode(quarters(), "PNG"), settings)
    assert error.code == "out-of-memory"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_let_through(stop, encode, settings, quarters, monkeypatch):
    def load(self):
        raise stop

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(stop):
        decode_bytes(encode(quarters(), "PNG"), "x", settings)


HEIC_HEADER = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_heic_without_its_decoder_names_the_extra(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    error = failure(HEIC_HEADER, settings)
    assert error.code == "no-decoder"
    assert "pip install 'imgrank[heic]'" in error.reason


def test_a_build_without_a_decoder_says_so(encode, settings, quarters, monkeypatch):
    data = encode(quarters(), "WEBP")
    monkeypatch.setattr("PIL.WebPImagePlugin.SUPPORTED", False)
    error = failure(data, settings)
    assert error.code == "no-decoder"
    assert "WebP" in error.reason


def test_heic_with_its_decoder(encode, settings, quarters):
    heif = pytest.importorskip("pillow_heif")
    registered = dict(Image.OPEN)
    image = heif.from_pillow(Image.fromarray(quarters(64, 96)))
    buffer = io.BytesIO()
    image.save(buffer, quality=95)
    photo = decode_bytes(buffer.getvalue(), "x", settings, 48)
    assert (photo.width, photo.height, photo.pixels.shape) == (96, 64, (32, 48, 3))
    assert np.abs(photo.pixels[4:12, 4:20].astype(int) - (255, 0, 0)).max() <= 12
    assert Image.OPEN == registered
    assert failure(buffer.getvalue()[:300], settings).code == "truncated"


def test_this_machine_has_the_decoders_that_the_tests_above_need():
    assert all(features.check(name) for name in ("webp", "avif", "jpg_2000", "libtiff", "littlecms2"))
