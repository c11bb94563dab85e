"""Prompts of the published protocols by name, in our own words: what each asks, in which form.

The published texts are not copied; where a paper's numbers are to be compared, the manifest of an
evaluation holds the prompt that was used.
"""

from __future__ import annotations

from collections.abc import Sequence

from unmask.tasks.base import ANSWER_CLOSE, ANSWER_OPEN, check_choice, user_prompt

REASONING_OPEN = "<reasoning>"

# What the answer looks like, by protocol: d1 (arXiv 2504.12216) tags reasoning and answer and boxes
# the answer; ESPO (arXiv 2512.03759) takes d1's prompts over; LLaDA's evaluation (arXiv 2502.09992)
# asks plainly for a boxed answer.
PROTOCOLS = ("zero-shot", "few-shot", "d1", "espo", "llada")

_TAGGED = (
    "Solve the following math problem step by step. Write your working between <reasoning> and "
    "</reasoning>, and after it only the final answer, inside \\boxed{}, between <answer> and "
    "</answer>:\n<reasoning>\n(your working)\n</reasoning>\n<answer>\n\\boxed{...}\n</answer>"
)
_BOXED = "Work through the problem step by step and give the final answer inside \\boxed{}."
_SHOT = "Question: {question}\nAnswer: {solution}\nThe answer is {answer}."


def planning_prefill(prompt: str, prompts: Sequence[str]) -> str:
    """The opening tag of the reasoning in ESPO's evaluation of planning tasks, else nothing.

    Raises:
        ValueError: if the prompt is none of the task's.
    """
    check_choice("prompt", prompt, prompts)
    return REASONING_OPEN if prompt == "espo" else ""


def math_prompt(
    question: str, protocol: str, shots: Sequence[tuple[str, str, str]] = ()
) -> list[dict[str, str]]:
    """The conversation that asks a question under a protocol.

    Args:
        question: the problem.
        protocol: one of `PROTOCOLS`.
        shots: question, solution and answer of each worked example, for "few-shot".
    """
    if protocol in ("d1", "espo"):
        return user_prompt(f"{_TAGGED}\n\n{question}")
    if protocol == "llada":
        return user_prompt(f"{question}\n\n{_BOXED}")
    if protocol == "few-shot":
        worked = [
            _SHOT.format(question=asked, solution=solution, answer=answer)
            for asked, solution, answer in shots
        ]
        return user_prompt("\n\n".join([*worked, f"Question: {question}\nAnswer:"]))
    return user_prompt(f"{_BOXED}\n\n{question}")


def math_completion(solution: str, answer: str, protocol: str) -> str:
    """A right answer in the form that a protocol asks for."""
    if protocol in ("d1", "espo"):
        return (
            f"{REASONING_OPEN}\n{solution}\n</reasoning>\n{ANSWER_OPEN}\n"
            f"\\boxed{{{answer}}}\n{ANSWER_CLOSE}"
        )
    if protocol == "few-shot":
        return f"{solution}\nThe answer is {answer}."
    return f"{solution}\n\\boxed{{{answer}}}"
