import os
import stat
import subprocess
import sys

import pytest

from manymask.core import files
from manymask.core.files import check_writable, explain_reading, hold_lock, replace_file
from manymask.errors import DatasetError, ManymaskError

# The module is run by its path, so that the process need not import torch.
WRITE = """
import pathlib, runpy, sys
with runpy.run_path(sys.argv[1])["replace_file"](pathlib.Path(sys.argv[2])) as f:
    for _ in range(int(sys.argv[3])):
        f.write(b"x" * int(sys.argv[4]))
"""


def run_script(prelude, *arguments):
    """Write in another process: a path, a number of times, a number of bytes."""
    command = [sys.executable, "-c", prelude + WRITE, files.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_bytes_and_parents(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    with replace_file(path) as f:
        f.write(b"\x00\r\n")
    assert path.read_bytes() == b"\x00\r\n"
    assert names(path.parent) == ["file.bin"]


def test_nothing_written_is_an_empty_file(tmp_path):
    with replace_file(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_bytes() == b""


def test_text_is_utf8_and_keeps_its_line_ends(tmp_path):
    with replace_file(tmp_path / "file.csv", "w") as f:
        f.write("µ\n\r\n")
    assert (tmp_path / "file.csv").read_bytes() == b"\xc2\xb5\n\r\n"


def test_old_content_is_there_until_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replace_file(path, "w") as f:
        f.write("new" * 100_000)
        f.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new" * 100_000
    assert names(tmp_path) == ["file"]


def write_half(path, error):
    with replace_file(path, "w") as f:
        f.write("half")
        raise error("stop")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("old", [[], ["file"]])
def test_body_that_raises(tmp_path, error, old):
    for name in old:
        (tmp_path / name).write_text("old")
    with pytest.raises(error, match="stop"):
        write_half(tmp_path / "file", error)
    assert names(tmp_path) == old
    assert all((tmp_path / name).read_text() == "old" for name in old)


def test_two_processes_do_not_mix(tmp_path):
    path = tmp_path / "file"
    with replace_file(path, "w") as f:
        f.write("mine")
        assert run_script("", path, "1", "5").returncode == 0
        assert path.read_text() == "xxxxx"
    assert path.read_text() == "mine"
    assert names(tmp_path) == ["file"]


def test_folder_in_the_way(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(ManymaskError, match="a folder is where the file belongs"), replace_file(tmp_path / "file") as f:
        f.write(b"x")
    assert names(tmp_path) == ["file"]


def test_file_is_readable_as_the_umask_says(tmp_path):
    umask = os.umask(0o022)
    try:
        with replace_file(tmp_path / "file") as f:
            f.write(b"x")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


LIMIT = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
"""


@pytest.mark.parametrize(("times", "size"), [("1", "1001"), ("300", "100")], ids=["at the flush", "in the body"])
@pytest.mark.parametrize("old", [[], ["file.bin"]])
def test_file_size_limit(tmp_path, times, size, old):
    path = tmp_path / "file.bin"
    for name in old:
        (tmp_path / name).write_bytes(b"old")
    done = run_script(LIMIT, path, times, size)
    assert done.stderr.splitlines()[-1].startswith(f"manymask.errors.ManymaskError: cannot write {path}: ")
    assert names(tmp_path) == old
    assert all((tmp_path / name).read_bytes() == b"old" for name in old)


def test_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ManymaskError, match="a file is where a folder is needed"), replace_file(tmp_path / "out" / "x"):
        pass
    assert (tmp_path / "out").read_text() == "a file"


def test_names_as_long_as_the_file_system_takes(tmp_path):
    path = tmp_path / ("x" * 251 + ".tif")
    with replace_file(path) as f:
        f.write(b"x")
    assert names(tmp_path) == [path.name]
    with pytest.raises(ManymaskError, match="longer than the file system allows"), replace_file(tmp_path / ("x" * 256)):
        pass


def test_writers_of_one_process_do_not_mix(tmp_path):
    with replace_file(tmp_path / "file", "w") as f:
        f.write("first")
        with replace_file(tmp_path / "file", "w") as g:
            g.write("second")
        assert (tmp_path / "file").read_text() == "second"
    assert (tmp_path / "file").read_text() == "first"
    assert names(tmp_path) == ["file"]


def without_permission(folder):
    """Take the permissions of a folder away; root, who needs none, becomes somebody else."""
    folder.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)


@pytest.fixture
def _privileges():
    user = os.geteuid()
    yield
    os.seteuid(user)


@pytest.mark.usefixtures("_privileges")
def test_no_permission(tmp_path):
    without_permission(tmp_path)
    with pytest.raises(DatasetError, match=f"{tmp_path} cannot be read: no permission; "), explain_reading():
        list(tmp_path.iterdir())
    with pytest.raises(ManymaskError, match=f"cannot write {tmp_path}.*: no permission"):
        check_writable(tmp_path / "file")


HOLD = """
import pathlib, runpy, sys
with runpy.run_path(sys.argv[1])["hold_lock"](pathlib.Path(sys.argv[2]), "taken"):
    print("held", flush=True)
    sys.stdin.read()
"""


class TestLock:
    @pytest.fixture
    def holder(self, tmp_path):
        """Another process that holds the lock."""
        command = [sys.executable, "-c", HOLD, files.__file__, str(tmp_path / "lock")]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()
        process.communicate()

    def test_one_process_at_a_time(self, tmp_path, holder):
        with pytest.raises(ManymaskError, match="^taken$"), hold_lock(tmp_path / "lock", "taken"):
            pass
        holder.communicate()
        assert names(tmp_path) == []
        with hold_lock(tmp_path / "lock", "taken"):
            assert names(tmp_path) == ["lock"]

    def test_a_killed_process_holds_nothing(self, tmp_path, holder):
        holder.kill()
        holder.wait()
        assert names(tmp_path) == ["lock"]
        with hold_lock(tmp_path / "lock", "taken"):
            pass
        assert names(tmp_path) == []


JSON_LIST = """
from pathlib import Path
from manymask.core.json_files import JsonList
from manymask.errors import ManymaskError
entries = JsonList(Path(sys.argv[1]))
try:
    entries.extend([1] * 10000)
except ManymaskError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))  # room again
entries.close()
"""


def test_json_list_of_which_a_part_was_lost_is_dropped(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("[]")
    limit = LIMIT.replace("(1000, 1000)", "(1000, -1)")
    done = subprocess.run(
        [sys.executable, "-c", "import sys" + limit + JSON_LIST, path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"cannot write {path}: ")
    assert path.read_text() == "[]"
    assert names(tmp_path) == ["file.json"]
