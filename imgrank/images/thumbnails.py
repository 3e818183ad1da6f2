"""Small pictures of photos as JPEG files, and looking into such files without trusting them.

Knows nothing of where they are kept.
"""

from __future__ import annotations

import io

from PIL import Image

from imgrank.arrays import Pixels
from imgrank.config import MAX_THUMBNAIL_SIDE, DecodeSettings, ThumbnailSettings
from imgrank.errors import ImageError
from imgrank.images.formats import HEAD, open_image, sniff
from imgrank.images.resize import fit_longer_side
from imgrank.records import Thumbnail

LIMITS = DecodeSettings(max_megapixels=MAX_THUMBNAIL_SIDE**2 / 1e6)
"""What decoding a thumbnail may cost."""


def make_thumbnail(pixels: Pixels, settings: ThumbnailSettings) -> Thumbnail:
    """Return a small picture of a photo.

    Args:
        pixels: (h, w, 3) uint8 sRGB, upright; one that is smaller already keeps its size.
        settings: how small, and how good.
    """
    small = fit_longer_side(pixels, settings.longer_side)
    stream = io.BytesIO()
    Image.fromarray(small).save(stream, "JPEG", quality=settings.quality, optimize=True)
    return Thumbnail(stream.getvalue(), small.shape[1], small.shape[0])


def check_thumbnail(thumbnail: Thumbnail, name: str) -> None:
    """Refuse a file that is not the small JPEG it is said to be; only its header is read.

    Raises:
        ImageError: another format or size, or a stream that takes more work than its pixels explain.
    """
    if sniff(thumbnail.data[:HEAD]) != "JPEG":
        raise ImageError(name, "not-an-image", "the stored thumbnail is no JPEG file")
    try:
        size = open_image(thumbnail.data, "JPEG", name, LIMITS).size
    except ImageError:
        raise
    except Exception as error:  # readers raise what they like on damaged data
        raise ImageError(name, "truncated", f"the stored thumbnail cannot be read ({error})") from error
    if size != (thumbnail.width, thumbnail.height):
        raise ImageError(name, "truncated", "the stored thumbnail has another size than it is said to have")
