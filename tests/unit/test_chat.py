"""The conversation loop: what it keeps, what it forgets, and when it ends."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny_policies import saved

from unmask import chat as module
from unmask.chat import chat

OVERRIDES = ["sampler={gen_length: 8, block_length: 8, steps: 4}"]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def talk(
    folder: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch, template: str | None
) -> tuple[str, list[Any]]:
    """What is printed, and the prompt of each reply."""
    prompts: list[Any] = []
    write, load = module.sample, module.load_policy

    def recorded(policy: Any, prompt: Any, *args: Any, **kwargs: Any) -> Any:
        prompts.append(list(prompt[0]) if isinstance(prompt[0], list) else prompt[0])
        return write(policy, prompt, *args, **kwargs)

    def loaded(path: str, **options: Any) -> Any:
        policy = load(path, **options)
        policy.tokenizer.chat_template = template
        return policy

    monkeypatch.setattr(module, "sample", recorded)
    monkeypatch.setattr(module, "load_policy", loaded)
    lines: Iterator[str] = iter(messages)

    def read(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    output = io.StringIO()
    chat(str(folder), OVERRIDES, Console(file=output, width=80), 0.0, read)
    return output.getvalue(), prompts


def test_a_reply_sees_the_whole_conversation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed, prompts = talk(saved(tmp_path), ["12", "345", "/quit", "9"], monkeypatch, TEMPLATE)
    assert [len(prompt) for prompt in prompts] == [1, 3]
    assert [turn["role"] for turn in prompts[1]] == ["user", "assistant", "user"]
    assert prompts[1][0]["content"] == "12"
    assert prompts[1][2]["content"] == "345"
    assert prompts[1][1]["content"] in printed


def test_a_new_conversation_forgets_and_an_empty_line_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, prompts = talk(saved(tmp_path), ["1", "/new", "2", "", "3"], monkeypatch, TEMPLATE)
    assert [[turn["content"] for turn in prompt] for prompt in prompts] == [["1"], ["2"]]


def test_the_first_exchanges_drop_out_where_positions_run_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, prompts = talk(saved(tmp_path), ["1" * 20] * 6, monkeypatch, TEMPLATE)
    assert max(map(len, prompts)) < 7
    assert all(prompt[-1]["content"] == "1" * 20 for prompt in prompts)
    assert all(prompt[0]["role"] == "user" for prompt in prompts)


def test_without_a_template_a_message_is_a_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, prompts = talk(saved(tmp_path), ["12", "34"], monkeypatch, None)
    assert prompts == ["12", "34"]


def test_a_message_that_is_too_long_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="has 64 positions"):
        talk(saved(tmp_path), ["1" * 80], monkeypatch, TEMPLATE)
