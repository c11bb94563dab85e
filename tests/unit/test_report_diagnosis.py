"""The command and its files: the same numbers again, a page without scripts, mistakes in a line."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from unmask.cli import main
from unmask.report.diagnosis import bias_text, render

QUICK = [
    "--prompts", "2", "--num-mc", "1,3", "--repeats", "2", "--target-draws", "32",
    "--estimators", "elbo,trajectory,one_step",
]  # fmt: skip


def measured(folder: Path, model: Path, recipe: Path, *extra: str) -> dict:
    arguments = ["diagnose", str(model), str(recipe), f"output_dir={folder}", *QUICK, *extra]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code in (None, 0)
    return json.loads((folder / "diagnose.json").read_text())


def without_times(result: dict) -> dict:
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result["estimates"]]
    return {**result, "estimates": rows, "seconds": None, "config_hash": None}


def test_one_seed_gives_one_diagnosis(tmp_path, tiny_model, recipe, capsys):
    first = measured(tmp_path / "a", tiny_model, recipe)
    shown = " ".join(capsys.readouterr().out.split())
    assert first["advice"] in shown
    assert without_times(first) == without_times(measured(tmp_path / "b", tiny_model, recipe))
    other = measured(tmp_path / "c", tiny_model, recipe, "seed=5")
    assert without_times(other)["estimates"] != without_times(first)["estimates"]

    counts = [(row["estimator"], row["num_mc"], row["views"]) for row in first["estimates"]]
    assert counts == [
        ("elbo", 1, 1), ("elbo", 3, 3),
        ("trajectory", 1, 1), ("trajectory", 3, 3),
        ("one_step", 1, 1),
        ("elbo_coupled_stratified", 1, 2), ("elbo_coupled_stratified", 3, 6),
    ]  # fmt: skip
    assert [row["num_mc"] for row in first["gradients"]] == [1, 3]
    assert (first["completions"], first["target"]["num_draws"]) == (8, 32)

    page = (tmp_path / "a" / "diagnose.html").read_text()
    assert page.count("<figure>") == 3
    assert "elbo_coupled_stratified" in page


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuch"],
        ["MODEL", "nosuch"],
        ["MODEL", "estimator.num=3"],
        ["MODEL", "--num-mc", "0"],
        ["MODEL", "--estimators", "elbow"],
    ],
)
def test_a_mistake_is_one_line_before_a_model_is_loaded(
    tmp_path, tiny_model, capsys, monkeypatch, arguments
):
    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("unmask.diagnosis.run.load_for_training", load)
    given = [str(tiny_model) if item == "MODEL" else item for item in arguments]
    with pytest.raises(SystemExit) as stop:
        main(["diagnose", *given, f"output_dir={tmp_path / 'out'}"])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# --- the page -----------------------------------------------------------------------------------


def result(**changes) -> dict:
    row = {"bias": 0.01, "bias_se": 0.02, "rmse": 1.0, "seconds": 0.001, "variance": 1.0}
    return {
        "model": "<b>mine</b>",
        "task": "sudoku",
        "seed": 1,
        "canvas": 16,
        "prompts": 2,
        "completions": 8,
        "own": "elbo",
        "share": 0.5,
        "spread": 2.0,
        "target": {"elbo": -5.0, "se": 0.01, "num_draws": 32},
        "estimates": [
            {"estimator": name, "num_mc": count, "views": count, "std": std, **row}
            for name, count, std in (("elbo", 1, 8.0), ("elbo", 4, 2.0), ("exact", 1, 0.0))
        ],
        "gradients": [{"num_mc": 1, "signal": 0.0, "noise": 0.0, "snr": None}],
        "advice": "num_mc=4 & more",
        **changes,
    }


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)


def test_the_page_is_self_contained_and_takes_names_for_text():
    page = render(result())
    tags = Tags()
    tags.feed(page)
    assert not {"script", "link", "img", "b", "iframe"} & set(tags.found)
    assert "default-src 'none'" in page
    assert "num_mc=4 &amp; more" in page
    assert "http://" not in page
    assert "url(" not in page


def test_points_lie_on_logarithmic_axes_and_zeros_are_left_out():
    page = render(result())
    chart = page[page.index("Standard deviation") :]
    elbo, exact = re.findall(r'points="([^"]*)"><title>(elbo|exact)', chart)[:2]
    assert exact == ("", "exact")
    (x1, y1), (x4, y4) = ([float(v) for v in point.split(",")] for point in elbo[0].split())
    ticks = dict(
        (label, float(x))
        for x, label in re.findall(r'<text x="([\d.]+)" y="316" [^>]*>([\d.]+)<', chart)
    )
    assert (x1, x4) == (ticks["1"], ticks["4"])
    assert ticks["2"] == pytest.approx((x1 + x4) / 2, abs=0.1)
    assert y1 < y4
    assert "nothing above 0" in page  # the gradient has neither signal nor noise


@pytest.mark.parametrize(
    ("bias", "se", "text"),
    [
        (0.01, 0.02, "+0.010 ± 0.020 ~0"),
        (-0.05, 0.02, "-0.050 ± 0.020   "),
        (0.0, 0.0, "+0.000 ± 0.000 ~0"),
    ],
)
def test_a_bias_within_its_noise_is_marked(bias, se, text):
    assert bias_text({"bias": bias, "bias_se": se}) == text
