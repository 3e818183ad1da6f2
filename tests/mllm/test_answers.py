import pytest

from imgrank.errors import SettingsError
from imgrank.mllm.answers import NAMED_ANSWERS, Answers, answers_for, read_answers
from imgrank.mllm.prompts import prompt_for, render
from imgrank.mllm.registry import load_mllm
from tests.tiny_mllms import FAMILIES


class Merger:
    """A tokenizer that knows letters, and "yes" as one word wherever it stands."""

    name = "merger"

    def tokenize(self, text):
        return [0 if letter == "Y" else ord(letter) for letter in text.replace("yes", "Y")]


def test_ids_are_those_of_the_token_after_the_text():
    assert Answers("n", "yes").tokens("Same? ", Merger())[1] == (ord("n"), 0)


def test_after_a_colon_a_reply_begins_with_a_space():
    class Spaced(Merger):  # a space belongs to the word behind it, but not to a digit
        def tokenize(self, text):
            return [
                {"Y": 1, "N": 2}.get(letter) or ord(letter) for letter in text.replace(" yes", "Y").replace(" no", "N")
            ]

    ids, answers = Answers("no", "yes").tokens("Reply:", Spaced())
    assert (ids, answers) == (Spaced().tokenize("Reply:"), (2, 1))
    ids, answers = Answers("0", "1").tokens("Reply:", Spaced())
    assert (ids, answers) == (Spaced().tokenize("Reply: "), (ord("0"), ord("1")))
    with pytest.raises(SettingsError, match="'maybe' is 5 tokens"):
        Answers("0", "maybe").tokens("Reply:", Spaced())


def test_an_answer_of_several_tokens_is_refused_with_the_reason():
    with pytest.raises(SettingsError, match="'no' is 2 tokens for merger, and must be one"):
        Answers("no", "yes").tokens("Same? ", Merger())


@pytest.mark.parametrize(("answer", "better"), [("Yes", "'yes'"), ("YES", "'yes'")])
def test_a_refusal_names_a_spelling_that_is_one_token(answer, better):
    with pytest.raises(
        SettingsError, match=rf"{answer!r} is 3 tokens.*one position; spelled {better} it would be one$"
    ):
        Answers("n", answer).tokens("Same? ", Merger())


def test_a_refusal_names_no_spelling_where_there_is_none():
    with pytest.raises(SettingsError, match=r"one position$"):
        Answers("no", "yes").tokens("Same? ", Merger())


def test_a_spelling_with_a_space_is_named():
    class Spaced(Merger):
        def tokenize(self, text):
            return [1 if letter == "N" else ord(letter) for letter in text.replace(" no", "N")]

    with pytest.raises(SettingsError, match="spelled ' no' it would be one"):
        Answers("no", "y").tokens("Same?", Spaced())


def test_an_answer_that_merges_with_the_text_is_refused():
    with pytest.raises(SettingsError, match="merges with the text"):
        Answers("n", "s").tokens("Same? ye", Merger())


@pytest.mark.parametrize("grades", [("", "1"), ("0", ""), ("1", "1"), ("0", "1", "0")])
def test_answers_must_be_different_words(grades):
    with pytest.raises(SettingsError, match="different words"):
        Answers(*grades)


@pytest.mark.parametrize("count", [1, 11])
def test_there_are_2_to_10_answers(count):
    with pytest.raises(SettingsError, match=f"must be 2 to 10 answers, not {count}"):
        Answers(*"abcdefghijk"[:count])


def test_grades_go_from_the_lowest_to_the_highest():
    assert Answers("n", "m", "yes").tokens("Same? ", Merger())[1] == (ord("n"), ord("m"), 0)
    assert Answers("n", "yes").graded is False
    assert Answers("n", "m", "yes").graded is True
    with pytest.raises(SettingsError, match="'12' is 2 tokens"):
        Answers("0", "12", "1").tokens("Same? ", Merger())


def test_a_space_that_all_replies_begin_with_belongs_to_the_prompt():
    class Spaced(Merger):  # a space belongs to the word behind it, but not to a digit
        def tokenize(self, text):
            return [1 if letter == "Y" else ord(letter) for letter in text.replace(" yes", "Y")]

    ids, tokens = Answers("0", "1", "2").tokens("Reply:", Spaced())
    assert (ids, tokens) == (Spaced().tokenize("Reply: "), tuple(map(ord, "012")))
    with pytest.raises(SettingsError, match="'0' is 2 tokens"):
        Answers("0", "1", "yes").tokens("Reply:", Spaced())


def test_answers_that_a_tokenizer_does_not_tell_apart_are_refused():
    class Lower(Merger):
        def tokenize(self, text):
            return super().tokenize(text.lower())

    with pytest.raises(SettingsError, match="answers 'Y' and 'y' are the same token for merger"):
        Answers("n", "Y", "y").tokens("Same? ", Lower())


@pytest.mark.parametrize("family", FAMILIES)
def test_digits_are_single_tokens_of_a_loaded_model_and_ten_is_not(model_folder, family):
    model = load_mllm(str(model_folder(family)), device="cpu")
    zero, one = render(prompt_for("object"), Answers(), model).answer_ids
    assert model.tokenize("01") == [zero, one]
    grades = render(prompt_for("object"), NAMED_ANSWERS["grades"], model).answer_ids
    assert model.tokenize("0123456789") == list(grades)
    with pytest.raises(SettingsError, match="'10' is 2 tokens"):
        render(prompt_for("object"), Answers("1", "10"), model)


def test_answers_by_name():
    assert answers_for("digits") == Answers() == Answers("0", "1")
    assert answers_for("yes-no") == Answers("No", "Yes")
    assert answers_for("ternary") == Answers("0", "1", "2")
    assert answers_for("grades").grades == tuple("0123456789")


@pytest.mark.parametrize("text", ["maybe", "Digits", "x" * 5000, "a\0b"])
def test_other_names_are_refused_with_the_known_ones(text):
    with pytest.raises(SettingsError, match="known are digits, yes-no, ternary, grades, and there is no such file"):
        answers_for(text)


@pytest.mark.parametrize(
    "content",
    [
        "same: gleich\ndifferent: anders\n",
        "different: anders\nsame: gleich",
        "\ufeff same:gleich \r\n\r\n different :  anders\r\n",
    ],
)
def test_an_answers_file(tmp_path, content):
    file = tmp_path / "answers.txt"
    file.write_bytes(content.encode())
    assert answers_for(str(file)) == Answers("anders", "gleich")


@pytest.mark.parametrize("content", ["grade 0: 0\ngrade 1: 1", "grade  1 : 1\n\n grade 0:0\n", "same: 1\ndifferent: 0"])
def test_two_grades_are_the_two_answers(tmp_path, content):
    file = tmp_path / "answers.txt"
    file.write_text(content)
    assert answers_for(str(file)) == Answers()


def test_a_file_of_grades_in_any_order(tmp_path):
    file = tmp_path / "answers.txt"
    file.write_text("grade 2: sure: yes\ngrade 0: no\ngrade 1: maybe\n")
    assert answers_for(str(file)) == Answers("no", "maybe", "sure: yes")
    file.write_text("".join(f"grade {grade}: {grade}\n" for grade in range(10)))
    assert answers_for(str(file)) == answers_for("grades")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"answers\.txt: lacks the line 'different: WORD'"),
        (b"different: A", r"answers\.txt: lacks the line 'same: WORD'"),
        (b"same: A\n", r"answers\.txt: lacks the line 'different: WORD'"),
        (b"same: A\n\nsame: B\n", r"answers\.txt, line 3: a second 'same' answer"),
        (b"same: A\ndifferent:\n", r"answers\.txt, line 2: must be .*not 'different:'"),
        (b"same A\n", r"answers\.txt, line 1: must be 'same: WORD', 'different: WORD' or 'grade NUM.*, not 'same A'"),
        (b"same: A\nother: B\n", r"answers\.txt, line 2: must be .*not 'other: B'"),
        (b"same: A\ndifferent: A\n", r"answers\.txt, line 2: a second answer 'A'"),
        (b"grade 0: A\n", r"answers\.txt: lacks the line 'grade 1: WORD'"),
        (b"grade 1: A\ngrade 2: B\n", r"answers\.txt: lacks the line 'grade 0: WORD'"),
        (b"grade 0: A\ngrade 1: B\ngrade 3: C\n", r"answers\.txt: lacks the line 'grade 2: WORD'"),
        (b"grade 0: A\ngrade 0: B\n", r"answers\.txt, line 2: a second 'grade 0' answer"),
        (b"".join(b"grade %d: %c\n" % (i, 65 + i) for i in range(11)), r"line 11: grades are 0 to 9, not 10"),
        (b"grade 0: A\nsame: B\n", r"answers\.txt, line 2: there are either 'same' and 'different' or grades"),
        (b"different: A\ngrade 1: B\n", r"answers\.txt, line 2: there are either 'same' and 'different' or grades"),
        (b"grade -1: A\n", r"answers\.txt, line 1: must be "),
        (b"grade: A\n", r"answers\.txt, line 1: must be "),
        (b"same: \xff\n", r"answers\.txt: not UTF-8"),
        (b"same: A\ndifferent: B\n" + b"\n" * 4096, r"answers\.txt: longer than 4096 bytes"),
    ],
)
def test_answers_files_that_cannot_be_used(tmp_path, content, reason):
    file = tmp_path / "answers.txt"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=reason):
        read_answers(file)


def test_a_folder_is_no_answers_file(tmp_path):
    with pytest.raises(SettingsError, match=r"answers file .*directory"):
        answers_for(str(tmp_path))


def test_answers_fill_each_slot_once():
    assert Answers("{positive}", "a").fill("{positive} {negative} {kind} {query}") == "a {positive} word {query}"
    assert [Answers(*pair).kind for pair in [("0", "1"), ("1", "10"), ("No", "Yes")]] == ["digit", "word", "word"]


@pytest.mark.parametrize(
    ("grades", "between"),
    [
        ("01", ""),
        ("012", "a digit in between"),
        ("3456", "a digit in between"),
        ("024", "2"),
        (("a", "b", "c", "d"), "b or c"),
    ],
)
def test_what_lies_between_the_lowest_and_the_highest(grades, between):
    assert Answers(*grades).fill("{negative} {between} {positive}") == f"{grades[0]} {between} {grades[-1]}"
