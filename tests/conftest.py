"""Settings of every test process: one torch thread, no network, no forks of tokenizer threads."""

import os
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TQDM_DISABLE"] = "1"
# Read by torch when a test imports it, so tests that need no torch do not pay for loading it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# Small enough to train in seconds; every section that a test does not set.
TINY = [
    "task.size=200",
    "sampler.gen_length=16",
    "sampler.block_length=8",
    "sampler.steps=16",
    "estimator.num_mc=1",
    "training.precision=fp32",
    "training.num_rollouts=3",
    "training.prompts_per_rollout=4",
    "training.num_generations=4",
    "training.num_iterations=2",
    "training.reference_sync_every=2",
    "optimizer.lr=1e-3",
    "evaluation.every=2",
    "evaluation.num_examples=8",
    "checkpoint.every=1",
    "logging.trackers=[]",
]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Sudoku model of two small layers, saved as any checkpoint is."""
    from unmask.models.denoiser import Denoiser
    from unmask.models.families import recognise
    from unmask.models.policy import Policy
    from unmask.models.settings import TinyArchitecture
    from unmask.models.tiny import build_network, build_tokenizer
    from unmask.tasks import get_task

    folder = tmp_path_factory.mktemp("models") / "random-sudoku"
    tokenizer = build_tokenizer(get_task("sudoku").symbols)
    shape = TinyArchitecture(num_layers=2, hidden_size=32, intermediate_size=64, num_heads=2)
    network = build_network(shape, tokenizer, seed=0)
    family = recognise(network.config.to_dict(), "test")
    denoiser = Denoiser(network, mask_token_id=family.mask_token_id)
    Policy(denoiser, tokenizer, family, None).save(folder)
    return folder


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A recipe that trains the random model for three rounds."""
    from unmask.recipe import load_config, to_yaml

    path = tmp_path_factory.mktemp("recipes") / "test.yaml"
    config = load_config(["sudoku-tiny", f"model.path={tiny_model}", *TINY], "train")
    path.write_text(to_yaml(config))
    return path
