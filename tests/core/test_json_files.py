import gzip

import pytest

from manymask.core import read_json
from manymask.errors import FormatError


def test_text_that_is_no_json_shows_its_beginning(tmp_path):
    (tmp_path / "list.txt").write_text("images/a.png\nimages/b.png\n")
    with pytest.raises(FormatError, match=r"list\.txt is not JSON: it begins with 'images/a\.png.*; give a JSON file"):
        read_json(tmp_path / "list.txt")


@pytest.mark.parametrize("content", ['{"a": 1,}', '[{"a": "\xe4"', ""])
def test_damaged_json_is_called_so(tmp_path, content):
    (tmp_path / "a.json").write_text(content, "latin-1")
    with pytest.raises(FormatError, match="is not JSON .*damaged or cut short" if content else "begins with ''"):
        read_json(tmp_path / "a.json")


def test_bytes_of_windows_are_read_and_told(tmp_path, caplog):
    (tmp_path / "a.json").write_bytes('{"name": "Zellk\xf6rper"}'.encode("cp1252"))
    assert read_json(tmp_path / "a.json") == {"name": "Zellk\xf6rper"}
    assert "is not UTF-8" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"[1, 2]", mtime=0)[:-9], "cut short"),
        (gzip.compress(b"[1, 2]", mtime=0)[:8] + b"x" * 20, "cannot be unpacked"),
        (gzip.compress(b" " * 10_000_000, mtime=0), "more than 200 times"),
    ],
    ids=["short", "damaged", "huge"],
)
def test_what_cannot_be_unpacked(tmp_path, content, message):
    (tmp_path / "a.json.gz").write_bytes(content)
    with pytest.raises(FormatError, match=f"{message}.*unpack it"):
        read_json(tmp_path / "a.json.gz")
