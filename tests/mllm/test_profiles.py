"""The templates are written out here a second time, by hand, in the chat format of the models they belong to."""

from typing import get_args

import pytest

from imgrank.config import Task
from imgrank.errors import SettingsError
from imgrank.mllm.profiles import PROFILES, profile_of
from imgrank.mllm.prompts import render
from imgrank.mllm.registry import load_mllm

QWEN3_VL_RERANKER = """\
<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. \
Note that the answer can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: Find photos of the very same object as in the query photo, not just of one that looks like it.\
<Query>:<|vision_start|><|image_pad|><|vision_end|>
<Document>:<|vision_start|><|image_pad|><|vision_end|><|im_end|>
<|im_start|>assistant
"""

LAMRA_RANK = """\
<|im_start|>system
You are a helpful assistant.<|im_end|>
<|im_start|>user
I will provide you with a query and a candidate. Please evaluate whether the candidate\
                        meets the requirements of the query. If it does, respond with 'Yes'; \
if it doesn't, responed with 'No'.\
Query:<|vision_start|><|image_pad|><|vision_end|>\
Find photos of the very same object as in the query photo, not just of one that looks like it.\
Candidate:<|vision_start|><|image_pad|><|vision_end|><|im_end|>
<|im_start|>assistant
"""

WORDED = [name for name, profile in PROFILES.items() if not profile.only]  # the built-in model knows no words
EXPECTED = {
    "qwen3-vl-reranker": QWEN3_VL_RERANKER,
    "lamra-rank": LAMRA_RANK,
    "lamra-rank-qwen2.5vl": LAMRA_RANK.replace(" " * 24, " "),
}


class Qwen:
    """The chat format of Qwen2-VL, Qwen2.5-VL and Qwen3-VL; a token is a character, a word or a special token."""

    name = "qwen"
    image_token = 1

    def chat(self, messages):
        turns = [f"<|im_start|>{message['role']}\n{self._content(message)}<|im_end|>\n" for message in messages]
        return "".join(turns) + "<|im_start|>assistant\n"

    def _content(self, message):
        image = "<|vision_start|><|image_pad|><|vision_end|>"
        return "".join(image if part["type"] == "image" else part["text"] for part in message["content"])

    def tokenize(self, text):
        words = ["<|image_pad|>", "yes", "no", "Yes", "No"]
        for number, word in enumerate(words, start=1):
            text = text.replace(word, chr(number))
        return [ord(letter) for letter in text]


@pytest.mark.parametrize("name", WORDED)
def test_the_rendered_text_is_the_trained_one(name):
    profile = PROFILES[name]
    assert profile.name == name
    assert Qwen().chat(profile.prompt("object").messages(profile.answers)) == EXPECTED[name]


@pytest.mark.parametrize(
    ("family", "name"), [("qwen3_vl", "qwen3-vl-reranker"), ("qwen2_5_vl", "lamra-rank-qwen2.5vl")]
)
def test_the_chat_template_of_a_loaded_model_leaves_the_text_alone(model_folder, family, name):
    model = load_mllm(str(model_folder(family)), device="cpu")
    profile = PROFILES[name]
    assert model.chat(profile.prompt("object").messages(profile.answers)) == EXPECTED[name]


@pytest.mark.parametrize("task", get_args(Task))
@pytest.mark.parametrize("name", WORDED)
def test_a_candidate_costs_its_tokens_and_the_end_of_the_turn(name, task):
    profile = PROFILES[name]
    rendered = render(profile.prompt(task), profile.answers, Qwen())
    assert rendered.query_first
    assert "".join(map(chr, rendered.after)) == "<|vision_end|><|im_end|>\n<|im_start|>assistant\n"
    assert rendered.answer_ids == {"no": (3, 2), "No": (5, 4)}[profile.answers.negative]


@pytest.mark.parametrize("name", WORDED)
def test_every_task_has_an_instruction_and_nothing_else_differs(name):
    texts = {task: PROFILES[name].prompt(task).text for task in get_args(Task)}
    assert len(set(texts.values())) == len(texts)
    start, end = PROFILES[name].template.split("{instruction}")
    for text in texts.values():
        instruction = text.removeprefix(start).removesuffix(end)
        assert start + instruction + end == text
        # As the instructions of the sources: a sentence, with a full stop against the next field.
        assert instruction.startswith("Find photos of the ")
        assert instruction.endswith(".")
        assert "{" not in instruction
    with pytest.raises(SettingsError, match="known: object, landmark"):
        PROFILES[name].prompt("cat")


@pytest.mark.parametrize(
    ("model", "family", "name"),
    [
        ("Qwen/Qwen3-VL-Reranker-2B", "qwen3_vl", "qwen3-vl-reranker"),
        ("Qwen/Qwen3-VL-Reranker-8B", "qwen3_vl", "qwen3-vl-reranker"),
        ("someone/Qwen3-VL-Reranker-2B-FP8", "qwen3_vl", "qwen3-vl-reranker"),
        ("/models/qwen3-vl-reranker-8b/", "qwen3_vl", "qwen3-vl-reranker"),
        ("/c/models--Qwen--Qwen3-VL-Reranker-2B/snapshots/0a1b2c", "qwen3_vl", "qwen3-vl-reranker"),
        ("code-kunkun/LamRA-Rank", "qwen2_vl", "lamra-rank"),
        ("code-kunkun/LamRA-Rank-Qwen2.5VL-7b", "qwen2_5_vl", "lamra-rank-qwen2.5vl"),
        ("LamRA-Rank", "qwen2_vl", "lamra-rank"),
    ],
)
def test_known_checkpoints(model, family, name):
    profile = profile_of(model, {"model_type": family})
    assert profile is not None
    assert profile.name == name


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl"),
        ("Qwen/Qwen3-VL-Embedding-2B", "qwen3_vl"),
        ("Qwen/Qwen3-VL-Reranker-2B", "qwen2_5_vl"),  # a name alone is no proof
        ("Qwen/Qwen3-VL-Reranker-2B", None),
        ("code-kunkun/LamRA-Rank", "qwen3_vl"),
        ("code-kunkun/LamRA-Ret", "qwen2_vl"),
        ("someone/LamRA-Ranker", "qwen2_vl"),
        ("someone/my-lamra-rank", "qwen2_vl"),
        ("Qwen3-VL-Reranker-2B/other", "qwen3_vl"),
        ("", "qwen3_vl"),
    ],
)
def test_other_models_have_no_profile(model, family):
    assert profile_of(model, {} if family is None else {"model_type": family}) is None


def test_a_folder_is_known_from_inside(tmp_path, monkeypatch):
    folder = tmp_path / "LamRA-Rank"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert profile_of(".", {"model_type": "qwen2_vl"}) is PROFILES["lamra-rank"]
