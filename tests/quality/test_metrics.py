"""SQuAD's and sacrebleu's definitions, on cases whose answers are known."""

import pytest
import sacrebleu

from edgewise.models.checkpoint import open_checkpoint
from edgewise.quality.metrics import bleu, exact_match, f1, normalized, quantization_ratio


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat!", "cat"),
        ("a an the", ""),
        ("Theatre, an", "theatre"),
        ("U.S.A.", "usa"),
        ("  29 degrees. ", "29 degrees"),
        ("rock-n-roll", "rocknroll"),
    ],
)
def test_normalization_is_squads(text, expected):
    assert normalized(text) == expected


@pytest.mark.parametrize(
    ("reply", "answers", "exact", "score"),
    [
        ("Denver Broncos", ["Denver Broncos", "The Denver Broncos!"], True, 1.0),
        ("the denver broncos.", ["Denver Broncos"], True, 1.0),
        ("Broncos", ["Denver Broncos"], False, 2 / 3),
        ("gold gold", ["gold"], False, 2 / 3),  # a word counts as often as it is right
        ("blue", ["red", "blue sky"], False, 2 / 3),
        ("", ["something"], False, 0.0),
    ],
)
def test_exact_match_and_f1(reply, answers, exact, score):
    assert exact_match(reply, answers) is exact
    assert f1(reply, answers) == pytest.approx(score)


def test_bleu_is_sacrebleus():
    replies = ["The cat sat on the mat today.", "There are 29 degrees now."]
    answers = [["The cat sat on a mat today."], ["It is 29 degrees there now.", "29 degrees now."]]
    columns = [[row[0] for row in answers], [answers[0][0], answers[1][1]]]
    expected = sacrebleu.corpus_bleu(replies, columns).score / 100
    assert bleu(replies, answers) == pytest.approx(expected)
    assert 0 < expected < 1
    assert bleu(["one two three four"], [["one two three four"]]) == pytest.approx(1.0)


def test_the_ratio_is_dilemmas(checkpoint):
    spec = open_checkpoint(checkpoint("llama")).spec
    assert quantization_ratio(spec, ["fp32"] * 6) == 1.0
    assert quantization_ratio(spec, ["t4"] * 6) == 0.125
    weights = [sum(r * c for r, c in layer.matrices) for layer in spec.layers]
    mixed = ["q8g64"] + ["q4g64"] * 5
    expected = (8 * weights[0] + 4 * sum(weights[1:])) / (32 * sum(weights))
    assert quantization_ratio(spec, mixed) == pytest.approx(expected)
