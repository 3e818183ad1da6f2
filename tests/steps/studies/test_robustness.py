"""`study robustness`: perturbed photos go the way of photos of the database, and levels are those of hard negatives."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrank.config import TokenSettings
from imgrank.errors import InputError, MismatchError, SettingsError
from imgrank.evaluation.perturbations import PERTURBATIONS, perturb
from imgrank.evaluation.qrels import read_qrels
from imgrank.images.resize import fit_longer_side
from imgrank.steps.cache_tokens import cache_tokens
from imgrank.steps.collection import open_collection
from imgrank.steps.judged_photos import JudgedPhotos, own_dataset
from imgrank.steps.second_stage import Request
from imgrank.steps.studies import robustness
from imgrank.steps.studies.frame import Outputs, run_study
from imgrank.steps.studies.method import parse_method
from imgrank.steps.studies.perturbed import Perturbed
from imgrank.steps.studies.robustness import check_perturbations, hard_negative_level, robustness_study
from imgrank.steps.studies.trials import Trials, TrialSettings

TOP = 8


@pytest.fixture
def judged(collection: Path) -> Path:
    """The collection with judgements in the names of the bundle; another view of object 1 is junk."""
    lines = [line.split("\t") for line in (collection / "qrels.tsv").read_text().splitlines()]
    lines = [(query, f"photos/{photo}", -1 if photo == "object-01-view-0.jpg" else 1) for query, _, photo, _ in lines]
    (collection / "full.tsv").write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
    return collection


def trials_of(folder: Path, seed: int = 0) -> Trials:
    photos = open_collection([folder / "db.h5"])
    dataset = own_dataset(read_qrels(folder / "full.tsv"), "trec")
    return Trials(JudgedPhotos(photos, dataset, folder / "queries"), TrialSettings(top=TOP, exact=True, seed=seed))


def methods_of(*lines: str):
    return [parse_method(line, top=TOP, request=Request(device="cpu")) for line in lines]


def rows_of(photos: Perturbed, folder: Path, *lines: str, names=("contrast", "tiling"), strengths=(0.0, 1.0)) -> list:
    study = robustness_study(photos, methods_of(*lines), names, strengths)
    run_study(study, Outputs(folder / "out", "none", force=True))
    return json.loads((folder / "out" / "robustness.json").read_text())["rows"]


def test_a_level_is_the_mean_of_the_hardest_negatives() -> None:
    values = np.arange(40, dtype=np.float32)[::-1].copy()
    assert hard_negative_level(values) == (39 + 38) / 2
    assert hard_negative_level(values[:20]) == 39
    assert hard_negative_level(values[:21]) == (39 + 38) / 2
    assert hard_negative_level(values[-1:]) == 0
    assert hard_negative_level(values[:0]) is None


def test_the_table_compares_each_pair_with_its_own_level() -> None:
    head = {"method": "m", "perturbation": "blur", "strength": 0.5, "kind": "value"}
    found = [
        {**head, "value": 0.6, "level": 0.5},
        {**head, "value": 0.6, "level": 0.6},  # not above
        {**head, "value": 0.9, "level": 0.1},
        {**head, "value": 0.1, "level": None},  # has no negatives
        {**head, "perturbation": "contrast", "value": 0.25, "level": None},
    ]
    contrast, blur = robustness._table(found)
    assert (contrast["perturbation"], contrast["above"], contrast["negatives"]) == ("contrast", None, None)
    assert blur["mean"] == pytest.approx((0.6 + 0.6 + 0.9 + 0.1) / 4)
    assert blur["above"] == pytest.approx(2 / 3)
    assert blur["negatives"] == pytest.approx(1.2 / 3)
    assert blur["queries"] == 4
    assert blur["low"] <= blur["mean"] <= blur["high"]


def test_without_a_perturbation_all_is_as_in_the_database(judged: Path) -> None:
    trials = trials_of(judged)
    photos = Perturbed(trials, side=300)
    assert {pair.photo for pair in photos.pairs} <= {
        b"photos/object-0%d-view-%d.jpg" % (o, v) for o in (0, 1) for v in range(3)
    }
    assert b"photos/object-01-view-0.jpg" not in {pair.photo for pair in photos.pairs}  # junk
    rows = rows_of(photos, judged, "none", "geometric", names=("contrast",))
    similarities, levels, values, value_levels = [], [], [], []
    (geometric,) = methods_of("geometric")
    reranker = trials.reranker(geometric)
    for pair in photos.pairs:
        own = b"photos/object-%s" % pair.case.query[6:8]
        hits = {hit.path: hit.similarity for hit in pair.case.ranking.hits}
        similarities.append(hits[pair.photo])
        head = [hit.path for hit in pair.case.ranking.hits[:TOP]]
        negatives = [name for name in head if not name.startswith(own)]
        assert 0 < len(negatives) < 20
        levels.append(max(hits[name] for name in negatives))
        scores = reranker.scores([*pair.case.rows[:TOP], pair.row], reranker.prepare(pair.case.photo)).values
        values.append(scores[-1])
        value_levels.append(max(s for s, name in zip(scores, head, strict=False) if name in negatives))
    first, second = (next(row for row in rows if row["method"] == name) for name in ("none", "geometric"))
    assert (first["kind"], second["kind"], first["strength"], first["queries"]) == ("similarity", "value", 0, 2)
    assert first["mean"] == pytest.approx(np.mean(similarities), abs=1e-6)
    assert first["negatives"] == pytest.approx(np.mean(levels), abs=1e-6)
    assert second["mean"] == np.mean(values, dtype=np.float64)
    assert second["negatives"] == np.mean(value_levels, dtype=np.float64)
    assert second["above"] == np.mean(np.array(values) > np.array(value_levels))
    strongest = [row for row in rows if row["strength"] == 1]
    assert len(strongest) == 2
    assert all(row["mean"] < next(r["mean"] for r in rows if r["method"] == row["method"]) for row in strongest)


def test_perturbed_photos_are_reduced_once_more_for_each_method(judged: Path) -> None:
    photos = Perturbed(trials_of(judged), side=300)
    one, other = photos.pairs
    assert other.row == one.other  # of another object
    assert max(photos.photo(one, "noise", 0.0, 480).shape) == 480  # as the database has it, whatever the side
    pixels = photos._read(one.row, 300).pixels
    assert max(pixels.shape) == 300
    beside = photos._read(other.row, 300).pixels
    expected = perturb("clutter", pixels, one.located.region, 0.5, seed=one.seed, other=beside)
    np.testing.assert_array_equal(photos.photo(one, "clutter", 0.5, None), expected)
    np.testing.assert_array_equal(photos.photo(one, "clutter", 0.5, 200), fit_longer_side(expected, 200))
    assert photos.notes(["clutter"]) == [
        "Nothing says where the object is in 2 of 2 photos: a box in the middle, half of the photo, is taken for it by "
        "background scaling, clutter and occlusion."
    ]


def test_a_model_sees_them_as_its_cache_keeps_photos(judged: Path, model_folder) -> None:
    shutil.copytree(model_folder("qwen3_vl"), judged / "mllm")
    cache_tokens(
        judged / "db.h5", mllm=str(judged / "mllm"), settings=TokenSettings(longer_side=160, reduce="divprune:12")
    )
    trials = trials_of(judged)
    photos = Perturbed(trials, side=300)
    rows = rows_of(photos, judged, "mllm cache=default label=m", names=("contrast",))
    (method,) = methods_of("mllm")
    reranker = trials.reranker(method)  # the cached tokens
    kept = [reranker.scores([pair.row], reranker.prepare(pair.case.photo)).values[0] for pair in photos.pairs]
    assert rows[0]["kind"] == "probability"
    assert rows[0]["mean"] == pytest.approx(np.mean(kept), abs=1e-5)
    assert rows[1]["mean"] != pytest.approx(np.mean(kept), abs=1e-3)


def test_a_mask_says_which_pixels_are_the_object(judged: Path) -> None:
    trials = trials_of(judged)
    (judged / "masks").mkdir()
    for path in (judged / "photos").glob("object-0[01]*"):
        with Image.open(path) as photo:
            marked = np.zeros((photo.height, photo.width), dtype=np.uint8)
        marked[: photo.height // 2] = 255
        Image.fromarray(marked).save(judged / "masks" / f"{path.stem}.png")
    photos = Perturbed(trials, masks=judged / "masks", side=100)
    assert photos.facts()["objects_by"] == {"mask": 2}
    assert photos.notes(["clutter"]) == []
    pair = photos.pairs[0]
    before, after = photos._read(pair.row, 100).pixels, photos.photo(pair, "occlusion", 1.0, None)
    changed = (before != after).any(axis=2)
    assert 0.6 < changed[: len(changed) // 2].mean() <= 0.8 + 1e-3  # four fifths, but for pixels that were so before
    assert not changed[len(changed) // 2 + 1 :].any()


def test_the_seed_chooses_the_photo_of_a_query(judged: Path) -> None:
    chosen = {
        seed: tuple(pair.photo for pair in Perturbed(trials_of(judged, seed), side=64).pairs) for seed in (2, 3, 4)
    }
    again = tuple(pair.photo for pair in Perturbed(trials_of(judged, 3), side=64).pairs)
    assert chosen[3] == again
    assert len(set(chosen.values())) > 1


def test_a_photo_that_is_gone_is_replaced_by_another_one(judged: Path) -> None:
    trials = trials_of(judged)
    first = Perturbed(trials, side=64).pairs[0]
    (judged / os.fsdecode(first.photo)).unlink()
    then = Perturbed(trials, side=64).pairs[0]
    assert then.case.query == first.case.query
    assert then.photo != first.photo
    for path in (judged / "photos").glob("object-00*"):
        path.unlink()
    left = Perturbed(trials, side=64)
    assert [pair.case.query for pair in left.pairs] == [b"query-01.jpg"]
    assert left.notes([])[-1] == "1 queries have no relevant photo that can be read: query-00.jpg."
    shutil.rmtree(judged / "photos")
    with pytest.raises(InputError, match="no relevant photo of 2 queries can be read"):
        Perturbed(trials, side=64)


def test_objects_that_fill_their_photo_are_left_out_of_what_needs_surroundings(judged: Path) -> None:
    trials = trials_of(judged)
    pair = Perturbed(trials, side=64).pairs[0]
    size = trials.judged.photos.parts[0].bundle.images.record(pair.row)
    (judged / "b.tsv").write_text(f"{os.fsdecode(pair.photo)}\t0\t0\t{size.width}\t{size.height}\n")
    photos = Perturbed(trials, judged / "b.tsv", side=64)
    rows = rows_of(photos, judged, "geometric", names=("contrast", "clutter"), strengths=(0.0, 0.5))
    assert [(row["perturbation"], row["strength"], row["queries"]) for row in rows] == [
        ("contrast", 0, 2), ("contrast", 0.5, 2), ("clutter", 0, 1), ("clutter", 0.5, 1),
    ]  # fmt: skip
    notes = photos.notes(["contrast", "clutter"])
    assert notes[-1] == "1 of 2 objects fill their photo and are left out of clutter."
    assert photos.facts()["objects_by"] == {"box of the file": 1, "middle half": 1}


def test_a_descriptor_that_the_bundle_does_not_have_is_an_error(judged: Path) -> None:
    photos = Perturbed(trials_of(judged), side=64)
    one, other = photos.pairs
    # The pixels of one photo are said to be of another row, as if the encoder were another one.
    photos.photo = lambda pair, *rest: Perturbed.photo(photos, other if pair is one else one, *rest)
    with pytest.raises(MismatchError, match=r"object-0\d-view-\d\.jpg and the one that builtin computes now"):
        rows_of(photos, judged, "none")


def test_an_interrupted_study_goes_on(judged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, bytes]] = []
    known = robustness._rows

    def counted(judge, label, photos, pair, *rest):
        if len(measured) == 3 and not resumed:
            raise KeyboardInterrupt
        measured.append((label, pair.case.query))
        return known(judge, label, photos, pair, *rest)

    monkeypatch.setattr(robustness, "_rows", counted)
    resumed = False
    with pytest.raises(KeyboardInterrupt):
        rows_of(Perturbed(trials_of(judged), side=64), judged, "none", "geometric")
    resumed = True
    (judged / "out" / "robustness.csv").write_text("half of it")  # as if it had been cut while it was written
    Outputs(judged / "out").check("robustness")
    rows = rows_of(Perturbed(trials_of(judged), side=64), judged, "none", "geometric")
    assert sorted(measured) == [(m, q) for m in ("geometric", "none") for q in (b"query-00.jpg", b"query-01.jpg")]
    with pytest.raises(SettingsError, match="is there already"):
        Outputs(judged / "out").check("robustness")  # it is finished
    shutil.rmtree(judged / "out")
    assert rows_of(Perturbed(trials_of(judged), side=64), judged, "none", "geometric") == rows


def test_the_command(imgrank, judged: Path) -> None:
    command = ["study", "robustness", "db.h5", "--qrels", "full.tsv", "--queries", "queries", "-o", "out"]
    options = ["--method", "geometric", "--perturbation", "tiling", "--strength", 0.5, "--strength", 0, "--side", 64]
    done = imgrank(*command, *options, "--plot-format", "none", cwd=judged)
    assert done.returncode == 0, done.stderr.decode()
    with (judged / "out" / "robustness.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == robustness.COLUMNS
    assert [(row["perturbation"], row["strength"]) for row in rows] == [("tiling", "0.0"), ("tiling", "0.5")]
    (judged / "b.tsv").write_text("photos/object-00-view-0.jpg\t0\t0\t9999\t10\n" * 1)
    (judged / "full.tsv").write_text("query-00.jpg\tphotos/object-00-view-0.jpg\n")
    done = imgrank(*command, "--boxes", "b.tsv", "--force", cwd=judged)
    assert done.returncode == 5
    assert b"b.tsv, line 1: the box 0,0,9999,10 reaches out of photos/object-00-view-0.jpg" in done.stderr


def test_perturbations_keep_their_order_and_are_known() -> None:
    assert check_perturbations(["noise", "contrast"]) == ("contrast", "noise")
    assert check_perturbations([]) == tuple(PERTURBATIONS)
    with pytest.raises(SettingsError, match="did you mean blur"):
        check_perturbations(["blurr"])
