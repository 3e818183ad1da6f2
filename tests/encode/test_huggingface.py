import json
import logging

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from imgrank.config import EncoderSettings
from imgrank.encode.huggingface import HuggingFaceEncoder
from imgrank.encode.registry import load_encoder
from imgrank.errors import InputError, MissingDeviceError, MissingModelError, SettingsError
from tests import tiny_encoders

FAMILIES = sorted(tiny_encoders.FAMILIES)
PROCESSORS = {
    "dinov2": BitImageProcessorPil,
    "dinov2_registers": BitImageProcessorPil,
    "clip": CLIPImageProcessorPil,
    "siglip": SiglipImageProcessorPil,
    "naflex": Siglip2ImageProcessorPil,
}
SUMMARY_AND_REGISTERS = {
    "dinov2": 1,
    "dinov2_registers": 4,
    "dinov3": 3,
    "dinov3_convnext": 1,
    "clip": 1,
    "siglip": 0,
    "naflex": 0,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    return {name: write(root / name) for name, write in tiny_encoders.FAMILIES.items()}


@pytest.fixture
def copy(tmp_path):
    """A fresh checkpoint that a test may damage."""
    return lambda name: tiny_encoders.FAMILIES[name](tmp_path / name)


def encoder(folder, device="cpu", batch_size=None, **settings):
    return HuggingFaceEncoder(EncoderSettings(model=str(folder), **settings), device=device, batch_size=batch_size)


def photos(count=5, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(20, 90, (count, 2)).tolist()
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def edit(folder, file, **changes):
    values = {**json.loads((folder / file).read_text()), **changes}
    (folder / file).write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def inputs_of_transformers(name, folder, images):
    if name in PROCESSORS:
        return PROCESSORS[name].from_pretrained(folder)(images, return_tensors="pt")
    # No Pillow processor: DINOv3's resizing leaves a photo of the right size as it is, so only numbers remain.
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = torch.from_numpy(np.stack(images)).float() / 255
    return {"pixel_values": ((pixels - mean) / std).permute(0, 3, 1, 2)}


def images_for(name):
    side = {"dinov3": 32, "dinov3_convnext": 64}.get(name)
    rng = np.random.default_rng(5)
    return photos() if side is None else list(rng.integers(0, 256, (5, side, side, 3), dtype=np.uint8))


def expected_of_transformers(name, folder, images, pooling):
    """Pool by hand what the whole published model, both towers, gives on transformers' own pixel values."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = inputs_of_transformers(name, folder, images)
    with torch.no_grad():
        if name in ("clip", "siglip", "naflex"):
            output = model.get_image_features(**inputs)
        else:
            output = model(**inputs)
        tokens = output.last_hidden_state
        if pooling == "auto":
            rows = output.pooler_output
        elif pooling == "cls":
            rows = model.vision_model.post_layernorm(tokens[:, 0]) if name == "clip" else tokens[:, 0]
        else:
            rows = []
            for i, photo_tokens in enumerate(tokens):
                patches = photo_tokens[SUMMARY_AND_REGISTERS[name] :]
                if name == "naflex":
                    patches = patches[: int(inputs["spatial_shapes"][i].prod())]
                if pooling == "gem":
                    patches = patches.clamp(min=1e-6) ** 3
                row = patches.mean(dim=0)
                rows.append(row ** (1 / 3) if pooling == "gem" else row)
            rows = torch.stack(rows)
    return torch.nn.functional.normalize(rows.double(), dim=1).numpy()


CASES = [(name, pooling) for name in FAMILIES for pooling in ("auto", "cls", "mean", "gem")]
CASES = [case for case in CASES if case not in (("siglip", "cls"), ("naflex", "cls"))]


@pytest.mark.parametrize(("name", "pooling"), CASES)
def test_descriptors_equal_those_of_transformers(folders, name, pooling):
    images = images_for(name)
    tiny = encoder(folders[name], pooling=pooling)
    descriptors = tiny.encode(images).descriptors
    expected = expected_of_transformers(name, folders[name], images, pooling)
    assert descriptors.dtype == np.float32
    assert descriptors.shape == (len(images), tiny.dim)
    np.testing.assert_allclose(descriptors, expected, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-6)
    # The photos are told apart, so the comparison above could have failed.
    assert (expected @ expected.T - np.eye(len(images))).max() < 0.9999


@pytest.mark.parametrize("name", FAMILIES)
def test_poolings_differ(folders, name):
    poolings = ["mean", "gem"] if name in ("siglip", "naflex") else ["cls", "mean", "gem"]
    vectors = [encoder(folders[name], pooling=pooling).encode(photos()).descriptors for pooling in poolings]
    for i, one in enumerate(vectors):
        for other in vectors[i + 1 :]:
            assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_batch_gives_the_same_bits(folders, name):
    first = encoder(folders[name]).encode(photos()).descriptors
    again = encoder(folders[name])
    assert again.encode(photos()).descriptors.tobytes() == first.tobytes()
    assert again.encode(photos()).descriptors.tobytes() == first.tobytes()


def test_batches_are_cut_in_order_and_change_the_last_bits_at_most(folders):
    images = photos(7)
    whole = encoder(folders["clip"], batch_size=7).encode(images).descriptors
    cut = encoder(folders["clip"], batch_size=3)
    descriptors = cut.encode(images).descriptors
    np.testing.assert_allclose(descriptors, whole, atol=1e-5)
    parts = [cut.encode(images[start : start + 3]).descriptors for start in (0, 3, 6)]
    assert np.concatenate(parts).tobytes() == descriptors.tobytes()


def test_no_photos_give_no_descriptors(folders):
    tiny = encoder(folders["clip"])
    assert tiny.encode([]).descriptors.shape == (0, tiny.dim)


def test_what_the_encoder_says_of_itself(folders):
    tiny = load_encoder(EncoderSettings(model=str(folders["clip"])), device="cpu", batch_size=3)
    assert (tiny.name, tiny.dim, tiny.batch_size, tiny.longer_side) == (str(folders["clip"]), 12, 3, 128)
    assert tiny.revision.startswith("blake2b-")
    assert json.loads(json.dumps(tiny.settings)) == tiny.settings
    assert (tiny.settings["family"], tiny.settings["pooling"], tiny.settings["dtype"]) == ("CLIP", "head", "float32")
    assert tiny.encode(photos(1)).local is None


def test_settings_of_different_descriptors_differ(folders):
    seen = [
        encoder(folders["dinov2"], **settings).settings
        for settings in ({}, {"pooling": "mean"}, {"pooling": "gem"}, {"image_size": 28}, {"dtype": "bfloat16"})
    ]
    assert all(one != other for i, one in enumerate(seen) for other in seen[:i])


def test_loading_is_silent(folders, capfd):
    encoder(folders["clip"])
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_the_vision_tower_of_clip_may_be_published_alone(folders, tmp_path):
    whole = transformers.CLIPVisionModelWithProjection.from_pretrained(folders["clip"])
    whole.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((folders["clip"] / "preprocessor_config.json").read_bytes())
    alone = encoder(tmp_path).encode(photos()).descriptors
    assert alone.tobytes() == encoder(folders["clip"]).encode(photos()).descriptors.tobytes()


def test_a_projection_size_beside_the_vision_tower_counts(copy):
    folder = copy("clip")
    values = json.loads((folder / "config.json").read_text())
    values["vision_config"]["projection_dim"] = 512
    (folder / "config.json").write_text(json.dumps(values))
    assert encoder(folder).encode(photos(1)).descriptors.shape == (1, 12)


# Resolution


@pytest.mark.parametrize(("name", "side"), [("clip", 48), ("siglip", 48), ("dinov2", 56), ("dinov3", 48)])
def test_another_image_size_equals_transformers_with_interpolated_positions(folders, name, side):
    rng = np.random.default_rng(3)
    images = list(rng.integers(0, 256, (3, side, side, 3), dtype=np.uint8))
    model = transformers.AutoModel.from_pretrained(folders[name]).eval()
    if name in PROCESSORS:
        crop = {"crop_size": side} if name in ("clip", "dinov2") else {}
        shorter = 64 if name == "dinov2" else side  # 48 : 42, the share that is cropped away, kept
        size = {"shortest_edge": shorter} if crop else {"height": side, "width": side}
        inputs = PROCESSORS[name].from_pretrained(folders[name])(images, size=size, **crop, return_tensors="pt")
    else:
        inputs = inputs_of_transformers(name, folders[name], images)
    with torch.no_grad():
        if name in ("clip", "siglip"):
            rows = model.get_image_features(**inputs, interpolate_pos_encoding=True).pooler_output
        else:
            rows = model(**inputs).pooler_output
    expected = torch.nn.functional.normalize(rows, dim=1).numpy()
    descriptors = encoder(folders[name], image_size=side).encode(images).descriptors
    np.testing.assert_allclose(descriptors, expected, atol=2e-5)
    assert np.abs(descriptors - encoder(folders[name]).encode(images).descriptors).max() > 1e-3


def test_the_own_image_size_changes_nothing(folders):
    for name in ("clip", "siglip"):
        own = encoder(folders[name]).encode(photos()).descriptors
        assert encoder(folders[name], image_size=32).encode(photos()).descriptors.tobytes() == own.tobytes()


def test_an_image_size_gives_naflex_as_many_patches_as_the_square_has(folders):
    tiny = encoder(folders["naflex"], image_size=48)
    assert tiny.settings["preprocess"]["max_patches"] == 36
    assert np.isfinite(tiny.encode(photos()).descriptors).all()


@pytest.mark.parametrize(("side", "nearest"), [(47, 48), (3, 8), (0, 8), (-5, 8), (5000, 4096)])
def test_an_image_size_between_patches_is_refused_with_the_nearest(folders, side, nearest):
    with pytest.raises(SettingsError, match=f"use {nearest}"):
        encoder(folders["clip"], image_size=side)


def test_a_preprocessor_of_another_resolution_is_refused(copy):
    folder = copy("clip")
    edit(folder, "preprocessor_config.json", size=40, crop_size=40)
    with pytest.raises(SettingsError, match=r"40 x 40 pixels.* 32 x 32; use --image-size 32"):
        encoder(folder)
    assert encoder(folder, image_size=40).encode(photos(1)).descriptors.shape == (1, 12)


def test_naflex_patches_agree_between_the_two_files(copy):
    folder = copy("naflex")
    edit(folder, "preprocessor_config.json", patch_size=16)
    with pytest.raises(SettingsError, match="patches of 16"):
        encoder(folder)


# Number types


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_is_close_to_float32(folders, name):
    exact = encoder(folders[name]).encode(photos()).descriptors
    short = encoder(folders[name], dtype="bfloat16")
    assert short.settings["dtype"] == "bfloat16"
    cosines = (short.encode(photos()).descriptors * exact).sum(axis=1)
    assert cosines.min() > 0.98
    assert cosines.max() < 1 - 1e-8  # it really ran in bfloat16


def test_an_overflow_names_the_remedy(copy):
    folder = copy("dinov2")
    weights = load_file(folder / "model.safetensors")
    scaled = {key: value * 300 if "projection" in key or "fc" in key else value for key, value in weights.items()}
    save_file(scaled, folder / "model.safetensors", metadata={"format": "pt"})
    assert np.isfinite(encoder(folder).encode(photos(2)).descriptors).all()
    with pytest.raises(SettingsError, match=r"float16: .*use --dtype float32"):
        encoder(folder, dtype="float16").encode(photos(2))


def test_damaged_weights_are_named(copy):
    folder = copy("dinov2")
    weights = load_file(folder / "model.safetensors")
    weights["layernorm.weight"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingModelError, match=r"2 photos .* weights are damaged"):
        encoder(folder).encode(photos(2))


def test_an_unknown_number_type_is_refused(folders):
    with pytest.raises(SettingsError, match="int8"):
        encoder(folders["clip"], dtype="int8")


# What is missing or wrong


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(copy, file):
    folder = copy("siglip")
    (folder / file).unlink()
    with pytest.raises(MissingModelError, match=file):
        load_encoder(EncoderSettings(model=str(folder)))


@pytest.mark.parametrize("kind", ["vit", "qwen3_vl", None, ["clip"], ...])
def test_another_kind_of_model_is_refused_with_those_supported(copy, kind):
    folder = copy("clip")
    edit(folder, "config.json", model_type=kind)
    with pytest.raises(SettingsError, match=r"supported: DINOv2, .*DINOv3.*CLIP, SigLIP, SigLIP 2 NaFlex"):
        encoder(folder)


@pytest.mark.parametrize("name", ["siglip", "naflex"])
def test_siglip_has_no_cls_token(folders, name):
    with pytest.raises(SettingsError, match="no CLS token"):
        encoder(folders[name], pooling="cls")


def test_siglip_without_its_head_still_pools_its_patches(copy, folders):
    folder = copy("siglip")
    values = json.loads((folder / "config.json").read_text())
    values["vision_config"]["vision_use_head"] = False
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(SettingsError, match="use --pooling mean or gem"):
        encoder(folder)
    mean = encoder(folder, pooling="mean").encode(photos()).descriptors
    assert mean.tobytes() == encoder(folders["siglip"], pooling="mean").encode(photos()).descriptors.tobytes()


def test_weights_that_lack_a_tensor_are_refused_not_filled_with_random_numbers(copy):
    folder = copy("clip")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingModelError, match=r"lack 1 of the tensors .*visual_projection\.weight"):
        encoder(folder)
    assert encoder(folder, pooling="cls").dim == 16


@pytest.mark.parametrize("change", [{"hidden_size": 32}, {"hidden_size": "wide"}, {"num_attention_heads": 0}])
def test_a_configuration_that_does_not_fit_the_weights_is_refused(copy, change):
    folder = copy("dinov2")
    edit(folder, "config.json", **change)
    with pytest.raises(MissingModelError):
        encoder(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, 2000])
def test_a_shortened_weight_file_is_refused(copy, keep):
    folder = copy("dinov2")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:keep])
    with pytest.raises(MissingModelError, match="weights cannot be loaded"):
        encoder(folder)


def test_code_beside_the_weights_never_runs(copy):
    folder = copy("clip")
    edit(folder, "config.json", auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"})
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    assert encoder(folder).dim == 12


def test_what_is_not_a_photo_is_refused(folders):
    with pytest.raises(InputError, match="photo 1 of the batch"):
        encoder(folders["clip"]).encode([photos(1)[0], np.zeros((4, 4), dtype=np.uint8)])


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_holds_a_photo(folders, size):
    with pytest.raises(SettingsError, match="at least 1"):
        encoder(folders["clip"], batch_size=size)


# Memory


def too_small(tiny, most, error):
    """Let the device hold `most` photos."""
    rows_at = tiny._rows_at

    def limited(steps, interpolate, images):
        if len(images) > most:
            raise error
        return rows_at(steps, interpolate, images)

    tiny._rows_at = limited


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_and_stays_halved(folders, caplog, error):
    images = photos(11)
    tiny = encoder(folders["clip"], batch_size=8)
    too_small(tiny, 2, error)
    with caplog.at_level(logging.WARNING):
        descriptors = tiny.encode(images).descriptors
    assert tiny.batch_size == 2
    assert [record.args[1:] for record in caplog.records] == [(8, 4), (4, 2)]
    expected = encoder(folders["clip"], batch_size=2).encode(images).descriptors
    assert descriptors.tobytes() == expected.tobytes()
    caplog.clear()
    tiny.encode(images)
    assert not caplog.records


def test_a_short_batch_is_halved_from_its_own_length(folders):
    tiny = encoder(folders["clip"], batch_size=64)
    too_small(tiny, 2, MemoryError())
    tiny.encode(photos(5))
    assert tiny.batch_size == 2


def test_one_photo_that_does_not_fit_is_an_error_with_advice(folders):
    tiny = encoder(folders["clip"], batch_size=4)
    too_small(tiny, 0, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(MissingDeviceError, match="smaller --image-size"):
        tiny.encode(photos(2))


def test_other_errors_are_not_taken_for_lack_of_memory(folders):
    tiny = encoder(folders["clip"], batch_size=4)
    too_small(tiny, 0, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal"):
        tiny.encode(photos(2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_gpu_gives_the_descriptors_of_the_cpu(folders, name):
    exact = encoder(folders[name]).encode(photos()).descriptors
    gpu = encoder(folders[name], device="cuda", dtype="float32").encode(photos()).descriptors
    np.testing.assert_allclose(gpu, exact, atol=5e-3)
    assert ((encoder(folders[name], device="cuda").encode(photos()).descriptors * exact).sum(axis=1) > 0.98).all()
