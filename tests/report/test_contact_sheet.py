"""The contact sheet puts photos where they belong and frames them by what they are."""

import numpy as np

from imgrank.report.contact_sheet import Cell, contact_sheet

SIDE, STEP, MARGIN = 160, 170, 10


def flat(colour: tuple[int, int, int], height: int = 154, width: int = 154) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def test_photos_stand_in_their_cells_with_frames() -> None:
    rows = [
        [Cell(flat((10, 20, 30)), "query"), Cell(flat((1, 2, 3)), "1", True), Cell(flat((4, 5, 6)), "2", False)],
        [Cell(flat((7, 8, 9)), "query"), Cell(flat((11, 12, 13), 77), "1")],
    ]
    sheet = np.asarray(contact_sheet(rows, side=SIDE))
    assert sheet.shape == (2 * (STEP + 22) + MARGIN, 3 * STEP + 3 * MARGIN, 3)
    centre = MARGIN + SIDE // 2
    below = centre + STEP + 22
    places = {  # (y, x) of the middle of each photo
        (centre, centre): (10, 20, 30),
        (centre, centre + STEP + 20): (1, 2, 3),
        (centre, centre + 2 * STEP + 20): (4, 5, 6),
        (below, centre): (7, 8, 9),
        (below, centre + STEP + 20): (11, 12, 13),
    }
    for (y, x), colour in places.items():
        assert tuple(sheet[y, x]) == colour
    frame = MARGIN + 1  # the frame is 3 pixels wide around a photo of 154 in a cell of 160
    right, wrong = sheet[centre, frame + STEP + 20], sheet[centre, frame + 2 * STEP + 20]
    assert right[1] > right[0]  # green
    assert wrong[0] > wrong[1]  # red


def test_no_rows_is_still_a_picture() -> None:
    assert contact_sheet([]).width > 0
