"""Models that were tuned to re-rank, and the prompt and answers each was tuned with.

Such a model is good at the text it was trained on, so its template is an interface and is kept to the character: case,
white space and spelling mistakes included. Every template has one free field, an instruction that says what is wanted;
its words are ours. Knows nothing of weights and photos.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgrank.config import Task, TokenSettings
from imgrank.mllm.answers import Answers
from imgrank.mllm.prompts import Prompt, check_task

# Whole sentences with a full stop: in the sources too, the next field follows with nothing between.
_INSTRUCTIONS: Mapping[Task, str] = {
    "object": "Find photos of the very same object as in the query photo, not just of one that looks like it.",
    "landmark": "Find photos of the same building, monument or place as in the query photo, or of a part of it.",
    "artwork": "Find photos of the same work of art as in the query photo, not of another of its artist or style.",
    "product": "Find photos of the same product as in the query photo: the same brand, model and variant.",
    "category": "Find photos of the same category of object as in the query photo, be it the very same one or another.",
}


@dataclass(frozen=True)
class Profile:
    """How a tuned re-ranker wants to be asked.

    Attributes:
        name: in `PROFILES`.
        checkpoints: how the names of its checkpoints begin, in lower case; None: all models of the family are such.
        family: `model_type` in their config.json; another one has another template.
        answers: exactly as trained; the score is the difference of their logits at the first token of the reply.
        system: the system message, if any.
        template: the user's turn, with "{query}", "{candidate}" and "{instruction}".
        tokens: how photos become tokens where the user does not say: no more than the source's own scorer takes.
        source: where the template was published.
        only: whether these models understand nothing else.
    """

    name: str
    checkpoints: str | None
    family: str
    answers: Answers
    system: str | None
    template: str
    tokens: TokenSettings
    source: str
    only: bool = False

    def prompt(self, task: Task) -> Prompt:
        """Return the prompt with our instruction for a task.

        Raises:
            SettingsError: no such task.
        """
        check_task(task)
        return Prompt(self.name, self.template.replace("{instruction}", _INSTRUCTIONS[task]), self.system)


# Qwen3-VL-Reranker 2B and 8B (arXiv:2601.04720), `format_mm_instruction` of the source. Between the instruction and
# <Query> there is no line break, between <Query> and <Document> there is one; no colon but the first has a space after
# it; nothing is appended to the assistant's header, not even the empty <think> of the text-only Qwen3-Reranker. A side
# without content would read NULL; ours always have a photo. The source's default instruction is "Given a search query,
# retrieve relevant candidates that answer the query.". 1,280 tokens of 32 x 32 pixels is what the script published with
# the weights allows; the repository's later version allows 1,800.
_QWEN3_VL_RERANKER = Profile(
    name="qwen3-vl-reranker",
    checkpoints="qwen3-vl-reranker",
    family="qwen3_vl",
    answers=Answers("no", "yes"),
    system=(
        "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
        'Note that the answer can only be "yes" or "no".'
    ),
    template="<Instruct>: {instruction}<Query>:{query}\n<Document>:{candidate}",
    tokens=TokenSettings(max_tokens=1280),
    source="https://github.com/QwenLM/Qwen3-VL-Embedding/blob/main/src/models/qwen3_vl_reranker.py",
)

# LamRA-Rank (arXiv:2412.01720), pointwise; the chat format's own system message. The query's text stands behind its
# photo; in training and evaluation it began with one of M-BEIR's instructions, so ours stands there. The first release,
# on Qwen2-VL, was trained with a string literal continued on an indented line: 24 spaces before "meets". The second,
# on Qwen2.5-VL, was trained without them. Both say "responed". Their scorer shrinks photos to 300 tokens of 28 x 28
# pixels.
_LAMRA = (
    "I will provide you with a query and a candidate. Please evaluate whether the candidate{space}meets the "
    "requirements of the query. If it does, respond with 'Yes'; if it doesn't, responed with 'No'."
    "Query:{query}{instruction}Candidate:{candidate}"
)


def _lamra(name: str, family: str, space: str, branch: str) -> Profile:
    return Profile(
        name=name,
        checkpoints="lamra-rank",
        family=family,
        answers=Answers("No", "Yes"),
        system="You are a helpful assistant.",
        template=_LAMRA.replace("{space}", space),
        tokens=TokenSettings(max_tokens=300),
        source=f"https://github.com/Code-kunkun/LamRA/blob/{branch}/dataset/datasets_mbeir_rerank.py",
    )


# The built-in model, and those trained by the same recipe, know one question and no words.
_KEYPOINTS = Profile(
    name="keypoints",
    checkpoints=None,
    family="imgrank_keypoints",
    answers=Answers(),
    system=None,
    template="{query}{candidate}",
    tokens=TokenSettings(longer_side=512, max_tokens=512, reduce="divprune:171"),
    source="imgrank.training",
    only=True,
)


PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        _KEYPOINTS,
        _QWEN3_VL_RERANKER,
        _lamra("lamra-rank", "qwen2_vl", " " * 24, "main"),
        _lamra("lamra-rank-qwen2.5vl", "qwen2_5_vl", " ", "qwen2.5vl"),
    )
}


def profile_of(model_name: str, config: Mapping[str, Any]) -> Profile | None:
    """Return the profile of a checkpoint that is known to be a tuned re-ranker, None for any other model.

    A checkpoint is known by how the last part of its name begins, whatever its case, so that copies called
    "Qwen3-VL-Reranker-2B-FP8" are known too; config.json must agree.

    Args:
        model_name: hub id or folder, as the user gave it. A snapshot in the hub client's cache counts by its id.
        config: what config.json says.
    """
    last = _last_part(model_name).lower()
    for profile in PROFILES.values():
        if config.get("model_type") != profile.family:
            continue
        if profile.checkpoints is None or re.match(re.escape(profile.checkpoints) + r"(?![a-z0-9])", last):
            return profile
    return None


def _last_part(model_name: str) -> str:
    path = Path(model_name).absolute()  # "." has a name only so
    if path.parent.name == "snapshots":  # .../models--OWNER--NAME/snapshots/COMMIT
        return path.parent.parent.name.rpartition("--")[2]
    return path.name
