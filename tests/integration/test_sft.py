"""Supervised fine-tuning: a tiny model from scratch learns, saves, resumes."""

import json
import signal
import subprocess
import sys
import time

from processes import rows, unmask

SMALL = [
    "sudoku-tiny-expert",
    "model.init.num_layers=1",
    "model.init.hidden_size=32",
    "model.init.intermediate_size=64",
    "model.init.num_heads=2",
    "task.size=300",
    "training.batch_size=32",
    "training.num_steps=40",
    "logging.trackers=[]",
]


def test_loss_falls_and_the_model_is_sampled_with_its_own_settings(tmp_path):
    folder = tmp_path / "run"
    done = unmask("sft", *SMALL, "task.prompt=compact", f"output_dir={folder}")
    assert done.returncode == 0, done.stderr
    losses = [row["loss"] for row in rows(folder)]
    assert len(losses) == 40
    assert sum(losses[-5:]) / 5 < 0.75 * losses[0]
    config = json.loads((folder / "model" / "config.json").read_text())
    assert config["is_causal"] is False
    assert config["unmask"]["sampler"]["gen_length"] == 16
    assert config["unmask"]["task"]["prompt"] == "compact"
    shown = unmask("sample", folder / "model")
    assert "step 16 of 16" in shown.stdout


def test_interrupted_run_goes_on_bit_for_bit(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert unmask("sft", *SMALL, f"output_dir={whole}").returncode == 0
    command = [sys.executable, "-m", "unmask.cli", "sft", *SMALL, f"output_dir={broken}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (broken / "metrics.jsonl").is_file():
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 3
    assert 0 < len(rows(broken)) < 40
    assert unmask("sft", *SMALL, f"output_dir={broken}", "resume=auto").returncode == 0
    assert rows(whole) == rows(broken)
    weights = "model/model.safetensors"
    assert (whole / weights).read_bytes() == (broken / weights).read_bytes()


def test_data_without_completions_is_refused(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"prompt": "1..2"}\n')
    done = unmask("sft", *SMALL, f"task.dataset={tmp_path}/data.jsonl", f"output_dir={tmp_path}/r")
    assert done.returncode == 2
    assert "no column 'completion'" in done.stderr
