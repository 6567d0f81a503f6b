import json

import pytest

from edgewise.errors import InputError
from edgewise.tuning.records import Record, read_records

GOOD = (
    '{"prompt": "a?", "answer": "b"}\n\n'
    '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},'
    ' {"role": "assistant", "content": "v"}]}\n'
)


def file(tmp_path, text, name="data.jsonl"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_prompts_and_conversations(tmp_path):
    asked, talked = read_records(file(tmp_path, GOOD))
    assert asked == Record(({"role": "user", "content": "a?"},), "b")
    assert [turn["role"] for turn in talked.turns] == ["system", "user"]
    assert talked.answer == "v"


def test_what_json_does_not_end_lines_at_stays_in_a_text(tmp_path):
    said = "one\u2028two\u2029three\u0085four\x0bfive"
    line = json.dumps({"prompt": "a", "answer": said}, ensure_ascii=False)
    records = read_records(file(tmp_path, f"{line}\r\n{line}\n"))
    assert [record.answer for record in records] == [said, said]


def test_anything_else_is_a_text(tmp_path):
    assert read_records(file(tmp_path, "Once upon", "story.txt")) == [Record((), "Once upon")]


@pytest.mark.parametrize(
    "line, says",
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: expected an object, not list"),
        ('{"prompt": "a"}', r"line 2: expected the keys"),
        ('{"prompt": "a", "answer": 3}', "line 2: answer must be text"),
        ('{"prompt": " ", "answer": "b"}', "line 2: prompt must be text"),
        ('{"messages": []}', "line 2: .*at least one"),
        ('{"messages": [{"role": "user", "content": "u"}]}', "line 2: the last message"),
        ('{"messages": [{"role": "tool", "content": "u"}]}', "line 2: message 0: role"),
        ('{"messages": [{"role": "user"}]}', "line 2: message 0 must have"),
    ],
)
def test_bad_records_are_named_by_line(tmp_path, line, says):
    with pytest.raises(InputError, match=says):
        read_records(file(tmp_path, '{"prompt": "a", "answer": "b"}\n' + line))


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_records(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="nothing to learn"):
        read_records(file(tmp_path, "\n"))
    binary = tmp_path / "x.txt"
    binary.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        read_records(binary)
