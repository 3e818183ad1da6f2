"""Models of timm, where timm is installed; torchvision, which it imports and does not need here, is a stand-in.

In a process of its own, so that no other test sees the stand-in.
"""

import importlib.util
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from imgrank.config import EncoderSettings
from imgrank.encode.registry import load_encoder
from imgrank.encode.timm import read_steps
from imgrank.errors import MissingExtraError, MissingModelError, SettingsError
from imgrank.steps.models import describe_model

PE = {
    "architecture": "vit_pe_core_base_patch16_224",
    "num_classes": 6,
    "num_features": 32,
    "global_pool": "map",
    "model_args": {"depth": 2, "embed_dim": 32, "num_heads": 2, "attn_pool_num_heads": 2, "img_size": 32},
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "classifier": "head",
        "num_classes": 6,
    },
}

# What timm imports of torchvision: any name of these modules, and one class that it derives from.
STAND_IN = """
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch


class Names(ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        filters = {"NEAREST": 0, "LANCZOS": 1, "BILINEAR": 2, "BICUBIC": 3, "BOX": 4, "HAMMING": 5}
        return type(name, (torch.nn.Module,), filters)


__version__ = "0.0"
parts = "ops ops.misc datasets transforms transforms.functional models models.feature_extraction"
for part in parts.split():
    module = Names(f"{__name__}.{part}")
    module.__path__, module.__spec__ = [], ModuleSpec(module.__name__, None)
    sys.modules[module.__name__] = module
    parent = sys.modules[module.__name__.rpartition(".")[0]]
    setattr(parent, part.rpartition(".")[2], module)
"""

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")


def in_a_process(tmp_path, code):
    stub = tmp_path / "stub" / "torchvision"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text(STAND_IN)
    path = [str(stub.parent), *sys.path]
    code = f"import sys; sys.path[:0] = {path!r}\n{textwrap.dedent(code)}"
    return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)


@needs_timm
def test_descriptors_equal_those_of_timm(tmp_path):
    (tmp_path / "pe").mkdir()
    (tmp_path / "pe" / "config.json").write_text(json.dumps(PE))
    run = in_a_process(
        tmp_path,
        """
        import json
        from dataclasses import replace
        from pathlib import Path

        import numpy as np
        import pytest
        import timm
        import torch
        from safetensors.torch import save_file

        from imgrank.config import EncoderSettings
        from imgrank.encode.registry import load_encoder
        from imgrank.errors import MissingModelError, SettingsError

        config = json.loads(Path("pe/config.json").read_text())
        torch.manual_seed(1)
        published = timm.create_model(config["architecture"], num_classes=6, **config["model_args"]).eval()
        with torch.no_grad():
            for one in published.parameters():
                one.normal_(std=0.3)
        weights = {key: value.clone() for key, value in published.state_dict().items()}
        save_file(weights, "pe/model.safetensors")

        rng = np.random.default_rng(2)
        photos = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (32, 32, 32)]
        settings = EncoderSettings(model="pe")
        tiny = load_encoder(settings, device="cpu")
        assert (tiny.dim, tiny.name, tiny.settings["family"]) == (32, "pe", config["architecture"])
        assert tiny.revision.startswith("blake2b-")

        def expected(network, photos):
            network.reset_classifier(0)
            pixels = (torch.from_numpy(np.stack(photos)).float() / 255 - 0.5) / 0.5
            with torch.no_grad():
                rows = network(pixels.permute(0, 3, 1, 2))
            return torch.nn.functional.normalize(rows, dim=1).numpy()

        found = tiny.encode(photos).descriptors
        np.testing.assert_allclose(found, expected(published, photos), atol=1e-5)
        assert (found @ found.T - np.eye(3)).max() < 0.9999

        # Another size: positions are resampled as timm does, and whole patches are asked for.
        large = [rng.integers(0, 256, (48, 48, 3), dtype=np.uint8) for _ in range(2)]
        published.set_input_size(img_size=(48, 48))
        found = load_encoder(replace(settings, image_size=48), device="cpu").encode(large).descriptors
        np.testing.assert_allclose(found, expected(published, large), atol=1e-5)
        for change, message in (
            ({"image_size": 47}, "use 48"),
            ({"scales": (1.0, 0.5)}, "takes photos of one size only"),
            ({"pooling": "gem"}, "pools as it was trained to"),
        ):
            with pytest.raises(SettingsError, match=message):
                load_encoder(replace(settings, **change), device="cpu")

        # Files that do not fit.
        save_file({key: value for key, value in weights.items() if key != "cls_token"}, "pe/model.safetensors")
        with pytest.raises(MissingModelError, match="lack 1 of the tensors .*cls_token"):
            load_encoder(settings, device="cpu")
        save_file(weights | {"extra.weight": torch.zeros(2)}, "pe/model.safetensors")
        with pytest.raises(MissingModelError, match="does not know: extra.weight"):
            load_encoder(settings, device="cpu")
        for key, value, error, message in (
            ("architecture", "hf-hub:timm/x", SettingsError, "does not have"),
            ("model_args", {"checkpoint_path": "evil.pth"}, SettingsError, "may not set checkpoint_path"),
            ("model_args", {"depth": 40}, MissingModelError, "asks for [0-9]+ weights"),
        ):
            Path("pe/config.json").write_text(json.dumps(config | {key: value}))
            with pytest.raises(error, match=message):
                load_encoder(settings, device="cpu")
        """,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", ["timm/vit_pe_core_large_patch14_336.fb", "pe"])
@pytest.mark.parametrize("missing", [{"timm"}, {"torchvision"}])
def test_what_is_missing_is_named_with_the_command(tmp_path, monkeypatch, name, missing):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pe").mkdir()
    (tmp_path / "pe" / "config.json").write_text(json.dumps(PE))
    monkeypatch.setattr("imgrank.encode.timm.find_spec", lambda package: None if package in missing else object())
    with pytest.raises(MissingExtraError, match=r"torchvision.*pip install 'imgrank\[timm\]'") as error:
        load_encoder(EncoderSettings(model=name), device="cpu")
    assert next(iter(missing)) in str(error.value)


def test_preprocessing_is_what_the_file_says():
    part = PE["pretrained_cfg"]
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    centre = read_steps("x", PE)
    assert (centre.resize_to, centre.crop_to, centre.resample, centre(photo).shape) == (32, (32, 32), 3, (3, 32, 32))
    squash = read_steps("x", PE | {"pretrained_cfg": part | {"crop_mode": "squash", "crop_pct": 0.8}})
    assert (squash.resize_to, squash.crop_to) == ((40, 40), (32, 32))
    assert read_steps("x", PE | {"pretrained_cfg": part | {"crop_pct": 0.9}}).resize_to == 35  # 35.6 rounded down


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input_size", [1, 32, 32]),
        ("input_size", [3, 32, 48]),
        ("input_size", "large"),
        ("crop_pct", 0),
        ("crop_mode", "border"),
        ("interpolation", "random"),
        ("mean", [0.5]),
        ("std", [0, 0, 0]),
    ],
)
def test_unusable_preprocessing_is_named(key, value):
    with pytest.raises(SettingsError, match=rf"pretrained_cfg\.{key} = "):
        read_steps("x", PE | {"pretrained_cfg": PE["pretrained_cfg"] | {key: value}})


def test_models_describes_a_folder_of_timm(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PE))
    (record,) = describe_model(str(tmp_path))
    assert (record["kind"], record["family"], record["dim"], record["image_size"]) == ("encoder", "timm", 32, 32)
    assert record["offline"] is False
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert describe_model(str(tmp_path))[0]["offline"] is True


def test_a_folder_without_config_is_a_missing_model(tmp_path):
    with pytest.raises(MissingModelError, match=r"config\.json"):
        load_encoder(EncoderSettings(model=str(tmp_path)))
