from typing import get_args

import pytest

from imgrank.config import PromptLayout, Task
from imgrank.errors import SettingsError
from imgrank.mllm.answers import Answers
from imgrank.mllm.prompts import Prompt, prompt_for, read_prompt, render


class Speller:
    """A model whose tokens are characters, and whose image placeholder is "#"."""

    name = "speller"
    image_token = ord("#")

    def chat(self, messages):
        parts = [part for message in messages for part in message["content"]]
        return "<" + "".join("#" if part["type"] == "image" else part["text"] for part in parts) + ">"

    def tokenize(self, text):
        return [ord(letter) for letter in text]


def spelled(ids):
    return "".join(map(chr, ids))


@pytest.mark.parametrize("task", get_args(Task))
def test_built_in_prompts_show_the_query_then_the_candidate_then_ask(task):
    rendered = render(prompt_for(task), Answers(), Speller())
    assert rendered.query_first
    assert (spelled(rendered.before), spelled(rendered.between)) == ("<", "")
    question = spelled(rendered.after)
    assert "same" in question
    assert question.endswith("Reply with one digit only: 1 if it does, 0 if it does not.>")
    assert "{" not in question
    assert rendered.answer_ids == (ord("0"), ord("1"))


@pytest.mark.parametrize("task", get_args(Task))
def test_instruction_first_puts_all_text_before_the_query(task):
    first, last = (render(prompt_for(task, layout), Answers(), Speller()) for layout in get_args(PromptLayout)[::-1])
    assert first.query_first
    assert (spelled(first.between), spelled(first.after)) == ("", ">")
    # The same sentences as in the other layout, before the photos instead of behind them.
    assert spelled(first.before) == "<" + spelled(last.after).removesuffix(">")
    assert first.answer_ids == last.answer_ids


@pytest.mark.parametrize("layout", get_args(PromptLayout))
def test_the_reply_asked_for_suits_the_answers(layout):
    words = prompt_for("artwork", layout).messages(Answers("No", "Yes"))[0]["content"]
    (text,) = [part["text"] for part in words if part["type"] == "text"]
    assert text.endswith("shown in a room. Reply with one word only: Yes if it does, No if it does not.")


@pytest.mark.parametrize("layout", get_args(PromptLayout))
@pytest.mark.parametrize("task", get_args(Task))
def test_graded_answers_are_asked_for_as_grades(task, layout):
    two, grades = (
        next(
            part["text"] for part in prompt_for(task, layout).messages(answers)[0]["content"] if part["type"] == "text"
        )
        for answers in (Answers(), Answers(*"0123456789"))
    )
    reply = (
        "Reply with one digit only, by how sure that is: 0 if it surely does not, 9 if it surely does, or a digit in "
        "between."
    )
    assert grades == two.partition("Reply with")[0] + reply
    words = Prompt("mine", "{query}{candidate}Same? {reply}").messages(Answers("no", "maybe", "yes"))[0]["content"]
    assert words[-1]["text"] == (
        "Same? Reply with one word only, by how sure that is: no if it surely does not, yes if it surely does, or "
        "maybe."
    )


def test_every_task_asks_something_else():
    assert len({prompt_for(task).text for task in get_args(Task)}) == len(get_args(Task))
    with pytest.raises(SettingsError, match="known: object, landmark"):
        prompt_for("cat")
    with pytest.raises(SettingsError, match="known: images-first, instruction-first"):
        prompt_for("object", "sideways")


def test_a_prompt_of_ones_own_in_any_order_with_a_system_message():
    prompt = Prompt("mine", "Here is {candidate} and there {query}. {positive} or {negative}?", "Be strict.")
    assert prompt.messages(Answers("n", "y")) == [
        {"role": "system", "content": [{"type": "text", "text": "Be strict."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Here is "},
                {"type": "image"},
                {"type": "text", "text": " and there "},
                {"type": "image"},
                {"type": "text", "text": ". y or n?"},
            ],
        },
    ]
    rendered = render(prompt, Answers("n", "y"), Speller())
    assert not rendered.query_first
    assert (spelled(rendered.before), spelled(rendered.between)) == ("<Be strict.Here is ", " and there ")
    assert spelled(rendered.after) == ". y or n?>"


def test_white_space_between_photos_is_kept():
    content = Prompt("mine", "{query}\n{candidate} ").messages(Answers())[0]["content"]
    assert [part.get("text") for part in content] == [None, "\n", None, " "]


def test_a_swapped_prompt_shows_each_photo_in_the_others_place():
    prompt = Prompt("mine", "A {query} B {candidate} C", "Be strict.")
    assert prompt.swapped() == Prompt("mine", "A {candidate} B {query} C", "Be strict.")
    assert prompt.swapped().swapped() == prompt
    for layout in get_args(PromptLayout):
        straight = prompt_for("product", layout)
        turned = straight.swapped()
        assert straight.query_first
        assert not turned.query_first
        assert turned.messages(Answers()) == straight.messages(Answers())  # all but which photo is which


@pytest.mark.parametrize(
    "text", ["Same?", "{query} same?", "{candidate} same?", "{query}{candidate}{query}", "{Query}{candidate}"]
)
def test_a_prompt_must_hold_both_slots_once(text):
    with pytest.raises(SettingsError, match=r"once each.*for example: \{query\}\{candidate\}"):
        Prompt("mine", text)


def test_a_prompt_may_not_smuggle_in_image_placeholders():
    with pytest.raises(SettingsError, match="3 image placeholders"):
        render(Prompt("mine", "{query}{candidate} # same?"), Answers(), Speller())


def test_a_chat_format_without_images_is_refused():
    class Deaf(Speller):
        def chat(self, messages):
            return "hello"

    with pytest.raises(SettingsError, match="0 image placeholders"):
        render(prompt_for("object"), Answers(), Deaf())


def test_a_prompt_file(tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_bytes("\ufeff{query}\n{candidate}\nGleiche Tür?\n".encode())
    assert read_prompt(file) == Prompt(str(file), "{query}\n{candidate}\nGleiche Tür?")


def test_prompt_files_that_cannot_be_used(tmp_path):
    file = tmp_path / "prompt.txt"
    with pytest.raises(SettingsError, match="No such file"):
        read_prompt(file)
    file.write_bytes(b"{query}{candidate}\xff")
    with pytest.raises(SettingsError, match="not UTF-8"):
        read_prompt(file)
    for too_long in (b"{query}{candidate}" + b"x" * 2**16, b"x" + "\u00e4".encode() * 2**15):
        file.write_bytes(too_long)
        with pytest.raises(SettingsError, match="longer than"):
            read_prompt(file)
    file.write_bytes(b"Same?")
    with pytest.raises(SettingsError, match=r"prompt\.txt.*once each"):
        read_prompt(file)
