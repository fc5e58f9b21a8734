"""A report over drawn label maps: what it shows, its size, and whether everyone can read it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import NOT_RUN
from tests.tuning.drawn_results import KEYS, fill, folder_of, node, rows_of_drawn
from tuning.html_report import page
from tuning.html_report.page import write_report
from tuning.html_report.run_section import PARTS
from tuning.named_results import CompareError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fill(tmp_path_factory.mktemp("report"))
    training = folder_of(folder, node("train_segmenter", "2"))
    training.mkdir()
    points = [{"step": n, "time": 0.0, "values": {"train/loss": 1 / n, "train/learning_rate": 0.1}} for n in (1, 2, 3)]
    (training / "curve.jsonl").write_text("".join(f"{json.dumps(point)}\n" for point in points) + '{"step": 4, "va')
    return folder


@pytest.fixture(autouse=True)
def rows(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows_of_drawn(runs)
    for module in ("tuning.named_results", "tuning.html_report.page"):
        monkeypatch.setattr(f"{module}.leaderboard", lambda *args, **options: found)


@pytest.fixture
def report(runs: Path, tmp_path: Path) -> str:
    path = tmp_path / "report.html"
    assert write_report(["bad", "good"], path, runs=runs) == path.stat().st_size
    return path.read_text()


def test_every_part_is_there_for_every_run(report: str) -> None:
    for number in (1, 2):
        for place, part in enumerate(PARTS):
            assert f'<h3 id="run{number}-{place}">{part}</h3>' in report
            assert f'href="#run{number}-{place}"' in report
    words = ("Is the difference more than chance?", "Lineage side by side", "predict.scale", "Confusion that moved")
    assert all(one in report for one in words)
    assert "train_segmenter: learning rate" in report and report.count("<polyline") >= 2, "the curve of a training"
    for key in (KEYS[0], KEYS[-1]):
        assert report.count(f"<code>{key}</code>") == 2, "few images: each run shows all of them"
    assert report.count("data:image/jpeg;base64,") == 2 * len(KEYS) * 4


def test_it_needs_nothing_from_outside(report: str) -> None:
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", report)
    assert "<script" not in report and "url(" not in report and "@import" not in report
    ids = re.findall(r' id="([^"]+)"', report)
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]+)"', report)) <= set(ids)


def test_pictures_give_way_if_the_page_would_be_too_large(
    runs: Path, tmp_path: Path, report: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MOST_BYTES", int(0.8 * len(report)))
    size = write_report(["bad", "good"], tmp_path / "small.html", runs=runs)
    assert size <= page.MOST_BYTES
    assert 0 < (tmp_path / "small.html").read_text().count("data:image") < report.count("data:image")
    monkeypatch.setattr(page, "MOST_BYTES", 10_000)
    with pytest.raises(CompareError, match=r"bytes even without pictures.*name fewer runs"):
        write_report(["bad"], tmp_path / "none.html", runs=runs)
    assert not (tmp_path / "none.html").exists()


def test_runs_over_different_images_are_shown_but_not_compared(runs: Path, tmp_path: Path) -> None:
    write_report(["good", "fewer"], tmp_path / "two.html", runs=runs)
    text = (tmp_path / "two.html").read_text()
    assert "Not compared: the results are over different images" in text and "Settings and lineage" in text


def test_what_is_gone_leaves_no_file(runs: Path, tmp_path: Path) -> None:
    made = next((runs / "store").glob("predict-3*"))
    made.rename(tmp_path / "kept")
    try:
        with pytest.raises(CompareError, match=r"maps of other:evaluate .* are gone: there is no folder .*predict-3"):
            write_report(["other"], tmp_path / "report.html", runs=runs)
    finally:
        (tmp_path / "kept").rename(made)
    with pytest.raises(CompareError, match="gone:predict is no evaluation"):
        write_report(["gone:predict"], tmp_path / "report.html", runs=runs)
    assert not (tmp_path / "report.html").exists()


AXE = """<script>{axe}</script><script>
document.querySelectorAll('details').forEach(one => one.open = true);
axe.run(document).then(found => {{
  const text = document.createElement('pre');
  text.id = 'found';
  text.textContent = JSON.stringify(found.violations.map(one => [one.impact, one.id, one.nodes[0].html.slice(0, 200)])
    .concat([['passes', found.passes.length], ['wide', document.documentElement.scrollWidth]]));
  document.body.replaceChildren(text);
}});
</script></body>"""


@pytest.mark.extended
@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_axe_finds_nothing_serious_in_a_browser(mode: str, width: int, report: str, tmp_path: Path) -> None:
    """As a phone and a desktop show it; nothing is wider than the screen."""
    axe_core = pytest.importorskip("axe_core_python", reason=f"{NOT_RUN}axe-core-python is not installed")
    if (browser := shutil.which("chromium") or shutil.which("chromium-browser")) is None:
        pytest.skip(f"{NOT_RUN}there is no chromium")
    axe = (Path(axe_core.__file__).parent / "axe.min.js").read_text()
    if mode == "dark":
        report = report.replace("@media (prefers-color-scheme: dark)", "@media all")
    file = tmp_path / "checked.html"
    file.write_text(report.replace("</body>", AXE.format(axe=axe)))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000", "--dump-dom"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    command = [browser, *options, file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    *violations, (_, passes), (_, wide) = json.loads(html.unescape(found[1]))
    assert [one for one in violations if one[0] in ("serious", "critical", "moderate")] == []
    assert passes > 15 and wide <= max(width, 500)
