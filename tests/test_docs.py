"""The documentation is true: its example runs, its table of settings is the plan's, its links lead somewhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from manymask.core.dataset import HOLDS
from manymask.formats import write_class_folder
from manymask.formats.conversion import TARGETS
from manymask.synthetic import make_categories, make_sample

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)


def make_data(folder, num_images, seed):
    for index in range(num_images):
        pixels, cells = make_sample(index, seed=seed, size=(64, 64), num_instances=6, num_classes=2)
        write_class_folder(folder, f"{index}", pixels, cells, make_categories(2))


@pytest.mark.filterwarnings("default:::manymask")  # the notes are on so few images
def test_readme_example_runs(tmp_path, monkeypatch, capsys):
    make_data(tmp_path / "data" / "train", 3, seed=0)
    make_data(tmp_path / "data" / "val", 1, seed=1)
    shutil.copy(tmp_path / "data" / "val" / "0" / "image.tif", tmp_path / "image.tif")
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example is not None
    small = {"architecture": "maskrcnn_compact", "backbone": "test_resnet", "anchor_sizes": (8, 16, 32, 64, 128)}
    short = {"max_steps": 2, "roi_samples": 16, "num_workers": 0}
    code = example[1].replace('{"minutes": 30}', f"{small | short}")
    assert "max_steps" in code
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "[" in capsys.readouterr().out  # the instances were printed


def test_settings_page_is_up_to_date():
    subprocess.run([sys.executable, ROOT / "scripts" / "write_settings", "--check"], check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_table_of_what_formats_hold_is_theirs():
    page = (ROOT / "docs" / "formats.md").read_text()
    words = [word for word in HOLDS if word != "overlaps of classes"]
    rows = []
    for name, format in TARGETS.items():
        cells = ["yes" if word in format.holds else "-" for word in words]
        if "overlaps of classes" in format.holds:
            cells[words.index("overlaps")] = "of classes"
        rows.append(" | ".join([f"| `{name}`", *cells]) + " |\n")
        assert f"manymask convert data --to {name} --output out" in page
    header = " | ".join(["| format", *words]) + " |\n" + "| --- " * (len(words) + 1) + "|\n"
    assert header + "".join(rows) in page
