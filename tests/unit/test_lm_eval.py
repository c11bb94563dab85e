"""The adapter for lm-eval: its likelihood is the ELBO, its generations are the sampler's."""

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
