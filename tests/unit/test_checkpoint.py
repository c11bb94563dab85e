"""Checkpoints: the run goes on bit for bit, and no failure spoils what was saved before."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_policies import saved, tiny_policy
from torch import Tensor, nn

from unmask.config import OptimizerConfig
from unmask.models.policy import load_policy
from unmask.models.settings import LoRA
from unmask.training import checkpoint
from unmask.training.checkpoint import (
    gather_state,
    list_checkpoints,
    read_checkpoint,
    restore_state,
    write_checkpoint,
)
from unmask.training.optimization import build_optimizer, build_scheduler

IDS = torch.tensor([[5, 2, 7, 2], [2, 6, 2, 9]])
TARGETS = torch.tensor([[5, 6, 7, 8], [9, 6, 10, 9]])
SETTINGS = OptimizerConfig(lr=1e-2, weight_decay=0.1, schedule="linear", warmup_steps=2)


class Run:
    """A module, its optimizer and its schedule."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.optimizer = build_optimizer(module, SETTINGS)
        self.scheduler = build_scheduler(self.optimizer, SETTINGS, num_steps=20)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            (-self.module(IDS, None, TARGETS, IDS == 2).mean()).backward()
            self.optimizer.step()
            self.scheduler.step()

    def save(self, folder: Path, keep: int = 3) -> None:
        weights, state = gather_state(self.module, self.optimizer)
        plain = {"scheduler": self.scheduler.state_dict()}
        write_checkpoint(folder, plain, {"policy": weights, "optimizer": state}, keep=keep)

    def restore(self, folder: Path) -> None:
        state, tensors = read_checkpoint(folder)
        restore_state(self.module, self.optimizer, tensors["policy"], tensors["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])


def assert_equal_runs(first: Run, second: Run) -> None:
    one, two = first.module.state_dict(), second.module.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    one_state, two_state = first.optimizer.state_dict(), second.optimizer.state_dict()
    assert one_state["state"].keys() == two_state["state"].keys()
    for index, entries in one_state["state"].items():
        others = two_state["state"][index]
        assert entries.keys() == others.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(value, others[name]) for name, value in entries.items())
    for ours, theirs in zip(one_state["param_groups"], two_state["param_groups"], strict=True):
        for name in ("lr", "initial_lr", "weight_decay", "eps", "params"):
            assert ours[name] == theirs[name]
        assert tuple(ours["betas"]) == tuple(theirs["betas"])
    assert first.scheduler.get_last_lr() == second.scheduler.get_last_lr()


def new_run(seed: int = 0) -> Run:
    return Run(tiny_policy(seed=seed).denoiser)


# --- the run goes on ----------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
def test_a_restored_run_goes_on_bit_for_bit(tmp_path: Path, steps: int) -> None:
    straight, resumed = new_run(), new_run(seed=1)
    straight.train(steps)
    straight.save(tmp_path / "step-000003")
    resumed.restore(tmp_path / "step-000003")
    assert_equal_runs(straight, resumed)
    straight.train(3)
    resumed.train(3)
    assert_equal_runs(straight, resumed)


def test_saving_does_not_change_the_run(tmp_path: Path) -> None:
    saving, plain = new_run(), new_run()
    for step in range(3):
        saving.save(tmp_path / f"step-{step:06d}")
        saving.train(1)
        plain.train(1)
    assert_equal_runs(saving, plain)


def test_gathering_from_an_optimizer_without_state_leaves_no_trace() -> None:
    run = new_run()
    (-run.module(IDS, None, TARGETS, IDS == 2).mean()).backward()
    gradients = [p.grad.clone() for p in run.module.parameters()]
    before = {name: value.clone() for name, value in run.module.state_dict().items()}
    weights, state = gather_state(run.module, run.optimizer)
    assert state == {}
    assert not run.optimizer.state
    assert all(torch.equal(weights[name], before[name]) for name in before)
    assert all(torch.equal(run.module.state_dict()[name], before[name]) for name in before)
    for parameter, gradient in zip(run.module.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_a_run_saved_before_its_first_step_goes_on(tmp_path: Path) -> None:
    straight, resumed = new_run(), new_run(seed=1)
    straight.save(tmp_path / "step-000000")
    resumed.restore(tmp_path / "step-000000")
    straight.train(2)
    resumed.train(2)
    assert_equal_runs(straight, resumed)


def test_only_adapters_are_saved_and_restored(tmp_path: Path) -> None:
    folder = saved(tmp_path / "base")

    def adapted(seed: int) -> Run:
        return Run(load_policy(str(folder), lora=LoRA(r=2, alpha=4), seed=seed).denoiser)

    straight, resumed = adapted(0), adapted(1)
    straight.train(2)
    straight.save(tmp_path / "step-000002")
    _, tensors = read_checkpoint(tmp_path / "step-000002")
    assert tensors["policy"]
    assert all("lora_" in name for name in tensors["policy"])
    resumed.restore(tmp_path / "step-000002")
    straight.train(2)
    resumed.train(2)
    assert_equal_runs(straight, resumed)


def test_tied_weights_are_saved_and_restored(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(seed)
            self.embedding = nn.Embedding(12, 4)
            self.head = nn.Linear(4, 12, bias=False)
            self.head.weight = self.embedding.weight
            with torch.no_grad():
                self.head.weight.copy_(torch.randn(12, 4, generator=generator))

        def forward(self, ids: Tensor, _: None, targets: Tensor, scored: Tensor) -> Tensor:
            logp = self.head(self.embedding(ids)).log_softmax(-1)
            return logp.gather(-1, targets.unsqueeze(-1)).squeeze(-1)[scored]

    straight, resumed = Run(Tied(0)), Run(Tied(1))
    straight.train(2)
    straight.save(tmp_path / "step-000002")
    resumed.restore(tmp_path / "step-000002")
    straight.train(2)
    resumed.train(2)
    assert_equal_runs(straight, resumed)
    assert resumed.module.head.weight is resumed.module.embedding.weight


# --- the files ----------------------------------------------------------------------------------


def test_tensors_and_values_come_back_as_they_went(tmp_path: Path) -> None:
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    tensors: dict[str, dict[str, Any]] = {
        "policy": {
            "weight": weight,
            "transposed": weight.T,
            "same": weight,
            "part": weight[1:],
            "half": weight.to(torch.bfloat16),
            "step": torch.tensor(3.0),
            "ids": torch.tensor([1, 2**60]),
            "flags": torch.tensor([True, False]),
            "nothing": torch.zeros(0, 4),
            "special": torch.tensor([torch.nan, torch.inf, -0.0]),
        },
        "optimizer": {"a/exp_avg": torch.ones(2), "groups": [{"lr": 1e-3, "betas": [0.9, 0.99]}]},
        "empty": {},
    }
    state = {"step": 7, "best": None, "nested": {"value": 0.1}, "text": "läuft"}
    folder = tmp_path / "checkpoints" / "step-000007"
    write_checkpoint(folder, state, tensors, keep=1)
    found_state, found = read_checkpoint(folder)
    assert found_state == state
    assert found.keys() == tensors.keys()
    for name, values in tensors.items():
        assert found[name].keys() == values.keys()
        for key, value in values.items():
            if isinstance(value, Tensor):
                assert found[name][key].dtype == value.dtype
                torch.testing.assert_close(found[name][key], value, rtol=0, atol=0, equal_nan=True)
            else:
                assert found[name][key] == value
    assert {file.suffix for file in folder.iterdir()} == {".safetensors", ".json"}


def write(folder: Path, step: int, keep: int = 3) -> Path:
    path = folder / f"step-{step:06d}"
    write_checkpoint(path, {"step": step}, {"policy": {"w": torch.full((4,), step)}}, keep=keep)
    return path


def steps(folder: Path) -> list[int]:
    return [read_checkpoint(path)[0]["step"] for path in list_checkpoints(folder)]


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 5, 10, 100, 1_000_000, 2_000_000):
        write(tmp_path, step)
    assert steps(tmp_path) == [100, 1_000_000, 2_000_000]
    write(tmp_path, 3_000_000, keep=1)
    assert steps(tmp_path) == [3_000_000]
    assert [path.name for path in tmp_path.iterdir()] == ["step-3000000"]


def test_a_run_resumed_from_an_earlier_checkpoint_forgets_the_later_ones(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        write(tmp_path, step, keep=9)
    write(tmp_path, 15, keep=1)
    assert steps(tmp_path) == [15]
    write(tmp_path, 25, keep=2)
    assert steps(tmp_path) == [15, 25]


def test_the_same_step_can_be_written_again(tmp_path: Path) -> None:
    path = write(tmp_path, 4)
    write_checkpoint(path, {"step": 4, "again": True}, {"other": {}}, keep=2)
    assert read_checkpoint(path) == ({"step": 4, "again": True}, {"other": {}})


def test_only_whole_checkpoints_are_listed_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (9, 999_999, 1_000_000):
        write(tmp_path, step, keep=9)
    (tmp_path / "step-000011").mkdir()
    (tmp_path / ".step-000012.tmp").mkdir()
    (tmp_path / "step-backup").mkdir()
    (tmp_path / "step-backup" / "state.json").write_text("{}")
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["step-000009", "step-999999", "step-1000000"]
    assert list_checkpoints(tmp_path / "nothing") == []


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["policy", "optimizer"])
def test_a_write_that_fails_leaves_the_older_checkpoints(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    original = checkpoint.save_file

    def save_file(tensors: dict[str, Tensor], file: Path) -> None:
        if file.stem == failing:
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        original(tensors, file)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    contents = {"policy": {"w": torch.ones(2)}, "optimizer": {"m": torch.ones(2)}}
    for step in (2, 3):
        with pytest.raises(OSError, match="No space left on device") as error:
            write_checkpoint(tmp_path / f"step-{step:06d}", {"step": step}, contents, keep=1)
        assert "\n" not in str(error.value)
        assert "free some space; older checkpoints are untouched" in str(error.value)
        assert steps(tmp_path) == [1, 2]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]


def test_a_state_that_json_cannot_hold_leaves_the_older_checkpoints(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(OSError, match="could not be written"):
        write_checkpoint(tmp_path / "step-000002", {"step": object()}, {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_what_a_killed_process_left_behind_is_no_checkpoint_and_is_cleared(tmp_path: Path) -> None:
    write(tmp_path, 1)
    left = tmp_path / ".step-000002.tmp"
    left.mkdir()
    (left / "policy.safetensors").write_bytes(b"half")
    assert steps(tmp_path) == [1]
    write(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000003"]


def test_a_full_disk_leaves_the_older_checkpoints(tmp_path: Path) -> None:
    """The operating system itself refuses to write beyond 64 KiB per file."""
    script = """
import resource, sys
from pathlib import Path
import torch
from unmask.training.checkpoint import write_checkpoint
folder = Path(sys.argv[1])
write_checkpoint(folder / "step-000001", {"step": 1}, {"policy": {"w": torch.ones(8)}}, keep=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
try:
    large = {"w": torch.ones(2**16)}
    write_checkpoint(folder / "step-000002", {"step": 2}, {"policy": large}, keep=1)
except OSError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"checkpoint {tmp_path / 'step-000002'} could not be written (")
    assert run.stdout.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    state, tensors = read_checkpoint(tmp_path / "step-000001")
    assert state == {"step": 1}
    assert torch.equal(tensors["policy"]["w"], torch.ones(8))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


@pytest.mark.parametrize("name", ["policy.safetensors", "state.json"])
@pytest.mark.parametrize("spoil", [truncate, Path.unlink])
def test_a_spoilt_checkpoint_is_refused_in_one_line(tmp_path: Path, name: str, spoil: Any) -> None:
    path = write(tmp_path, 1)
    spoil(path / name)
    with pytest.raises(ValueError, match="cannot be read") as error:
        read_checkpoint(path)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"checkpoint {path} cannot be read (")
    assert "resume=never" in message


def test_another_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"step": 1}))
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match=r"give a folder checkpoints/step-"):
            read_checkpoint(folder)


# --- the optimizer ------------------------------------------------------------------------------


def test_weight_decay_is_for_matrices_and_frozen_weights_are_left_out() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    module[2].requires_grad_(False)
    optimizer = build_optimizer(module, OptimizerConfig(lr=0.5, betas=(0.1, 0.2), weight_decay=0.3))
    decayed, plain = optimizer.param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3)]
    assert [tuple(p.shape) for p in plain["params"]] == [(4,), (4,), (4,)]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    for group in (decayed, plain):
        assert (group["lr"], tuple(group["betas"])) == (0.5, (0.1, 0.2))


@pytest.mark.parametrize(
    ("schedule", "warmup_steps", "rates"),
    [
        ("constant", 0, [1, 1, 1, 1, 1]),
        ("constant", 2, [0, 0.5, 1, 1, 1]),
        ("linear", 0, [1, 0.75, 0.5, 0.25, 0]),
        ("linear", 2, [0, 0.5, 1, 0.5, 0]),
        # Half a cosine over four steps: cos(pi/4) = 0.7071.
        ("cosine", 0, [1, 0.853553, 0.5, 0.146447, 0]),
    ],
)
def test_the_learning_rate_follows_the_schedule(
    schedule: Any, warmup_steps: int, rates: list[float]
) -> None:
    settings = OptimizerConfig(lr=2.0, schedule=schedule, warmup_steps=warmup_steps)
    optimizer = build_optimizer(nn.Linear(2, 2), settings)
    scheduler = build_scheduler(optimizer, settings, num_steps=4)
    found = []
    for _ in rates:
        found.append(optimizer.param_groups[0]["lr"] / 2)
        optimizer.step()
        scheduler.step()
    assert found == pytest.approx(rates, abs=1e-6)
