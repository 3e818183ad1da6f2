"""Which part of a photo each cell of a grid of visual tokens covers.

Knows grids, tiles and proportions; no model and no torch.
"""

from __future__ import annotations

import numpy as np

from imgrank.arrays import Floats
from imgrank.mllm.base import full_positions


def grid_regions(grid: tuple[int, int], tiles: tuple[int, int] = (1, 1)) -> Floats:
    """Return the cells of tiles that are laid over a photo row by row, as shares of its width and height.

    Args:
        grid: (rows, columns) of one tile.
        tiles: (rows, columns) of tiles; of more than one, a last tile shows the whole photo.

    Returns:
        (tiles * rows * columns, 4) float32: left, top, width, height, in the order of the sequence.
    """
    count = tiles[0] * tiles[1]
    tile, row, column = full_positions(count + 1 if count > 1 else 1, *grid).astype(np.float64).T
    across, down = np.full_like(tile, tiles[1]), np.full_like(tile, tiles[0])
    tile_row, tile_column = np.divmod(tile, tiles[1])
    if count > 1:
        whole = tile == count
        across[whole] = down[whole] = 1
        tile_row[whole] = tile_column[whole] = 0
    boxes = [
        (tile_column + column / grid[1]) / across,
        (tile_row + row / grid[0]) / down,
        1 / (grid[1] * across),
        1 / (grid[0] * down),
    ]
    return np.stack(boxes, axis=1).astype(np.float32)


def out_of_square(boxes: Floats, size: tuple[int, int]) -> Floats:
    """Turn shares of a square with a photo in its middle into shares of the photo; margins lie outside 0 to 1.

    Args:
        boxes: (n, 4) left, top, width, height.
        size: (height, width) of the photo.
    """
    height, width = size
    across, down = max(size) / width, max(size) / height
    turned = boxes.astype(np.float64) * [across, down, across, down]
    turned[:, 0] -= (across - 1) / 2
    turned[:, 1] -= (down - 1) / 2
    return turned.astype(np.float32)
