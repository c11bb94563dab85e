"""The adapter for lm-eval: its likelihood is the ELBO, its generations are the sampler's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_policies import saved

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from unmask.lm_eval import UnmaskLM


def request(kind: str, *arguments) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> UnmaskLM:
    path: Path = saved(tmp_path_factory.mktemp("lm_eval"))
    return UnmaskLM(
        str(path), num_mc=2, gen_length=8, block_length=4, dtype="float32", device="cpu"
    )


def test_one_token_has_its_exact_likelihood(model) -> None:
    [(value, first)] = model.loglikelihood([request("loglikelihood", "12", "3")])
    ids = torch.tensor([[*model.policy.encode_completion("12"), model.policy.family.mask_token_id]])
    network = model.policy.denoiser.network
    logp = network(input_ids=ids, use_cache=False).logits[0, -1].float().log_softmax(-1)
    target = model.policy.encode_completion("3")[0]
    assert value == pytest.approx(logp[target].item(), abs=1e-5)
    logp[model.policy.family.mask_token_id] = -torch.inf
    assert first == (int(logp.argmax()) == target)


def test_the_bound_does_not_depend_on_the_batch_or_the_order(model) -> None:
    pairs = [("12", "345"), ("", "77"), ("9", "1")]
    requests = [request("loglikelihood", *pair) for pair in pairs]
    whole = model.loglikelihood(requests)
    assert model.loglikelihood(requests[::-1]) == whole[::-1]
    model._max_tokens = 1
    narrow = model.loglikelihood(requests)
    model._max_tokens = 16384
    for (one, _), (other, _) in zip(whole, narrow, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert model.loglikelihood_rolling([request("x", "77")]) == [whole[1][0]]


def test_generation_stops_at_the_first_stop_text(model) -> None:
    [text] = model.generate_until([request("generate_until", "12", {"until": []})])
    assert len(text.split()) <= 8
    stop = text[2:3] or "1"
    [cut] = model.generate_until([request("generate_until", "12", {"until": [stop]})])
    assert cut == text.split(stop)[0]
    [short] = model.generate_until([request("generate_until", "12", {"max_gen_toks": 2})])
    assert text.startswith(short)


def test_arguments_win_over_options_and_no_gpu_is_asked_for_in_vain(model) -> None:
    path = str(model.policy.source)
    from_command = {"device": "cuda:0", "batch_size": 1, "max_batch_size": None}
    made = UnmaskLM.create_from_arg_string(f"path={path},device=cpu,gen_length=4", from_command)
    assert made.policy.denoiser.device.type == "cpu"
    if not torch.cuda.is_available():
        made = UnmaskLM.create_from_arg_obj({"path": path}, from_command)
        assert made.policy.denoiser.device.type == "cpu"


@pytest.mark.slow
def test_the_command_of_the_documentation_scores_both_kinds_of_task(tmp_path, monkeypatch) -> None:
    # The paths in the tasks are relative to the repository.
    monkeypatch.chdir(Path(__file__).parents[2])
    arguments = "path=tiny-countdown,gen_length=8,block_length=8,num_mc=8"
    command = [sys.executable, "-c", "from unmask.lm_eval import main; main()"]
    command += [
        "--model",
        "unmask",
        "--model_args",
        arguments,
        "--include_path",
        "examples/lm_eval",
    ]
    command += ["--tasks", "countdown_generate,countdown_choice", "--apply_chat_template"]
    command += ["--limit", "16", "--log_samples", "--output_path", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    [file] = tmp_path.rglob("results_*.json")
    results = json.loads(file.read_text())["results"]
    # A model that solves 80 % and more of its held-out problems; guessing gives 0 and 25 %.
    assert results["countdown_generate"]["solved,none"] >= 0.75
    assert results["countdown_choice"]["acc,none"] >= 0.6
    [file] = tmp_path.rglob("samples_countdown_choice_*.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(samples) == 16
    for sample in samples:
        values = [float(value) for value, _ in sample["filtered_resps"]]
        assert sample["acc"] == (values.index(max(values)) == sample["doc"]["label"])
        assert all(value < 0 for value in values)
