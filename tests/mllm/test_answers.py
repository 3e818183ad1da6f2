import pytest

from imgrank.errors import SettingsError
from imgrank.mllm.answers import Answers
from imgrank.mllm.prompts import prompt_for, render
from imgrank.mllm.registry import load_mllm
from tests.tiny_mllms import FAMILIES


class Merger:
    """A tokenizer that knows letters, and "yes" as one word wherever it stands."""

    name = "merger"

    def tokenize(self, text):
        return [0 if letter == "Y" else ord(letter) for letter in text.replace("yes", "Y")]


def test_ids_are_those_of_the_token_after_the_text():
    assert Answers("n", "yes").token_ids("Same? ", Merger()) == (ord("n"), 0)


def test_an_answer_of_several_tokens_is_refused_with_the_reason():
    with pytest.raises(SettingsError, match="'no' is 2 tokens for merger, and must be one"):
        Answers("no", "yes").token_ids("Same? ", Merger())


def test_an_answer_that_merges_with_the_text_is_refused():
    with pytest.raises(SettingsError, match="merges with the text"):
        Answers("n", "s").token_ids("Same? ye", Merger())


@pytest.mark.parametrize(("negative", "positive"), [("", "1"), ("0", ""), ("1", "1")])
def test_answers_must_be_two_words(negative, positive):
    with pytest.raises(SettingsError, match="different words"):
        Answers(negative, positive)


@pytest.mark.parametrize("family", FAMILIES)
def test_digits_are_single_tokens_of_a_loaded_model_and_ten_is_not(model_folder, family):
    model = load_mllm(str(model_folder(family)), device="cpu")
    zero, one = render(prompt_for("object"), Answers(), model).answer_ids
    assert model.tokenize("01") == [zero, one]
    with pytest.raises(SettingsError, match="'10' is 2 tokens"):
        render(prompt_for("object"), Answers("1", "10"), model)
