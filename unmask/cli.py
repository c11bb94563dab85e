"""The command line: `unmask COMMAND [RECIPE] [key=value …]`. Nothing heavy is imported early.

Exit codes: 0 done, 1 a failure, 2 the user's mistake, 3 stopped by a signal after a clean save.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from unmask.config import COMMANDS, CompareConfig, SFTConfig, TrainConfig
from unmask.models.paths import find_local_model
from unmask.provenance import annotated_yaml
from unmask.recipe import load_config, parse_overrides, schema_rows, split_arguments
from unmask.tasks import TASKS, get_task
from unmask.tasks.base import check_choice

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Reinforcement-learning post-training of masked diffusion language models. "
    "Every command takes --debug for full tracebacks.",
)
console = Console()

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RECIPE] [KEY=VALUE]...", help="A recipe, then dotted overrides."),
]


@app.command()
def train(
    arguments: Arguments = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Go through all of it on a tiny random model.")
    ] = False,
) -> None:
    """Train by reinforcement learning; without a recipe, sudoku-tiny."""
    config = _train_config(arguments)
    if dry_run:
        _dry_run(config)
        return
    from unmask.report import write_report
    from unmask.training.trainer import Trainer

    trainer = Trainer(config=config, show=True)
    results = trainer.train()
    if not trainer.run.is_main:
        return
    folder = trainer.run.folder.path
    page = write_report(folder)
    _print_before_after(results)
    console.print(f"model   {folder / 'model'}\nreport  {page}", highlight=False)


@app.command()
def sft(arguments: Arguments = None) -> None:
    """Fine-tune on demonstrations; without a recipe, sudoku-tiny-expert."""
    config = load_config(arguments or [], "sft")
    assert isinstance(config, SFTConfig)
    from unmask.report import write_report
    from unmask.training.sft import SupervisedTrainer

    trainer = SupervisedTrainer(config, show=True)
    trainer.train()
    if not trainer.run.is_main:
        return
    folder = trainer.run.folder.path
    page = write_report(folder)
    console.print(f"model   {folder / 'model'}\nreport  {page}", highlight=False)


@app.command(name="eval")
def evaluate(
    arguments: Arguments = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for eval.json and samples.jsonl, or eval.json.")
    ] = None,
    rescore: Annotated[
        Path | None, typer.Option(help="Score this samples.jsonl again, without a model.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Test two evaluations against each other.")
    ] = None,
) -> None:
    """Measure a model on held-out problems: unmask eval model=runs/x/model."""
    from unmask.evaluation import display

    if compare is not None:
        from unmask.evaluation.compare import compare_evaluations

        display.print_comparison(compare_evaluations(*compare), *compare, console)
        return
    if rescore is not None:
        from unmask.evaluation.run import rescore as score_again

        done = score_again(rescore, _train_config(arguments) if arguments else None, output)
        display.print_results(done.results, str(rescore), console)
        return
    config = _train_config(arguments)
    from unmask.evaluation.conditions import conditions

    conditions(config)
    from unmask.evaluation.run import RESULT_FILE, run_evaluation

    with console.status("reading") as status:
        done = run_evaluation(config, output, on_progress=status.update)
    display.print_results(done.results, config.model.path, console)
    if deviation := done.manifest.get("batch_deviation"):
        console.print(display.deviation_line(deviation), highlight=False)
    assert done.folder is not None
    shown = done.folder / (output.name if output and output.suffix else RESULT_FILE)
    console.print(f"result  {shown}", highlight=False, soft_wrap=True)


@app.command()
def sample(
    model: Annotated[str, typer.Argument(help="A folder, a packaged model's name or a hub id.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROMPT] [KEY=VALUE]...",
            help="A prompt (else a held-out problem of the model's task), then overrides.",
        ),
    ] = None,
    delay: Annotated[float, typer.Option(help="Seconds between steps on a terminal.")] = 0.15,
) -> None:
    """Watch one completion being unmasked: unmask sample tiny-sudoku sampler.temperature=0."""
    from unmask.watch import watch_completion

    rest = list(arguments or [])
    prompt = rest.pop(0) if rest and not _is_override(rest[0]) else None
    watch_completion(model, prompt, rest, console, delay)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="A folder, a packaged model's name or a hub id.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides.")
    ] = None,
    delay: Annotated[float, typer.Option(help="Seconds between steps on a terminal.")] = 0.05,
) -> None:
    """Talk with a model and watch its replies being unmasked: unmask chat runs/x/model."""
    from unmask.chat import chat as talk

    talk(model, overrides or [], console, delay)


@app.command()
def diagnose(
    model: Annotated[str, typer.Argument(help="A folder, a packaged model's name or a hub id.")],
    arguments: Arguments = None,
    prompts: Annotated[int, typer.Option(help="Prompts to write completions for.")] = 4,
    num_mc: Annotated[str, typer.Option(help="Numbers of draws.")] = "1,2,4,8,16,32",
    repeats: Annotated[int, typer.Option(help="Independent estimates of a completion.")] = 8,
    target_draws: Annotated[int, typer.Option(help="Draws of the target, per completion.")] = 1024,
    share: Annotated[float, typer.Option(help="Of the spread: how small is enough.")] = 0.5,
    estimators: Annotated[str, typer.Option(help="Names, with commas; empty: all.")] = "",
) -> None:
    """Measure bias and variance of likelihood estimators: unmask diagnose tiny-sudoku."""
    config = _train_config([*(arguments or []), f"model.path={model}"])
    from unmask.diagnosis.run import Settings, diagnose as measure, output_folder
    from unmask.diagnosis.table import print_diagnosis
    from unmask.report.diagnosis import write_diagnosis

    settings = Settings.parse(
        num_mc,
        estimators,
        prompts=prompts,
        repeats=repeats,
        target_draws=target_draws,
        share=share,
    )
    with console.status("reading") as status:
        result = measure(config, settings, on_stage=status.update)
    print_diagnosis(result, console)
    page = write_diagnosis(output_folder(config.output_dir), result)
    console.print(f"page    {page}", highlight=False)


@app.command()
def compare(arguments: Arguments = None) -> None:
    """Compare methods, tuned alike, over seeds, on one budget; without a recipe, study-sudoku."""
    config = load_config(arguments or [], "compare")
    assert isinstance(config, CompareConfig)
    from unmask.errors import Preempted
    from unmask.study.run import run_study

    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    try:
        results = run_study(config, tell)
    except Preempted as stop:
        _fail(f"stopped: {stop}; go on with the same command", 3)
    for line in results["unfinished"]:
        tell(f"unfinished: {line}")
    console.print(f"report  {Path(config.output_dir) / 'report.html'}", highlight=False)
    if results["unfinished"]:
        raise SystemExit(1)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run or study folder.")]) -> None:
    """Write the HTML page of a run or a study again."""
    from unmask.report import write_report
    from unmask.study.plan import STUDY_FILE

    if (run / STUDY_FILE).is_file():
        from unmask.study.report import report_study

        report_study(run)
        console.print(str(run / "report.html"), highlight=False)
        return
    console.print(str(write_report(run)), highlight=False)


@app.command()
def adapt(
    model: Annotated[str, typer.Argument(help="A folder, a hub id or a .gguf file.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    shift: Annotated[bool, typer.Option(help="Predict a token from the one before it.")] = False,
    block_length: Annotated[int | None, typer.Option(help="Attend in blocks.", min=1)] = None,
) -> None:
    """Make a Llama, Qwen2 or Qwen3 checkpoint bidirectional, with a mask token; then unmask sft."""
    from unmask.models.adapt import adapt as write

    done = write(model, out, shift=shift, block_length=block_length)
    console.print(
        f"{done['model_type']} with mask token {done['mask_token']} ({done['mask_token_id']})\n"
        f"model   {out}\nnext    unmask sft model.path={out}",
        highlight=False,
        markup=False,
    )


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder or a hub id.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    form: Annotated[
        str, typer.Option("--format", help="original = its family's; native = transformers'.")
    ] = "original",
) -> None:
    """Write a model under its family's original tensor names and config."""
    from unmask.models.export import export as write

    family = write(model, out, form)
    console.print(f"{family.name}   {out}", highlight=False, markup=False)


@app.command()
def merge(
    model: Annotated[str, typer.Argument(help="A run folder or model folder with adapters.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Fold LoRA adapters into the model that they belong to."""
    from unmask.models.export import merge as write

    write(model, out)
    console.print(f"model   {out}", highlight=False, markup=False)


@app.command()
def tasks(
    action: Annotated[str, typer.Argument(help="list, or show with a name.")] = "list",
    name: Annotated[str, typer.Argument(help="Of a task.")] = "",
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[OPTION=VALUE]...", help="Of the task.")
    ] = None,
) -> None:
    """List the tasks with one problem each; `unmask tasks show NAME` shows prompts and rewards."""
    from unmask.tasks.show import example_row, graded_answers

    check_choice("unmask tasks", action, ("list", "show"))
    if action == "show":
        if not name:
            raise ValueError(f"unmask tasks show: name a task, one of {', '.join(TASKS)}")
        task = get_task(name, **parse_overrides(options or []))
        for prompt in task.prompts:
            text = example_row(task, prompt)["prompt"][-1]["content"]
            opening = task.prefill(prompt)
            console.rule(f"prompt {prompt}", align="left")
            console.print(text, markup=False, highlight=False)
            if opening:
                console.print(f"(measured with the answer begun: {opening})", markup=False)
        for kind, text, reward, solved in graded_answers(task, task.prompts[0]):
            console.rule(f"{kind} answer: reward {reward:.3g}, solved {solved:.0f}", align="left")
            console.print(text, markup=False, highlight=False)
        return
    table = Table("task", "prompt formats", "a held-out problem")
    for known in TASKS:
        task = get_task(known)
        try:
            shown = example_row(task, task.prompts[0])["prompt"][-1]["content"]
        except ValueError as error:
            shown = f"({error})"
        table.add_row(known, ", ".join(task.prompts), Text(shown))
    console.print(table)


@app.command(name="config")
def show_config(
    arguments: Arguments = None,
    schema: Annotated[bool, typer.Option("--schema", help="Every field with its doc.")] = False,
) -> None:
    """Print the resolved config and where each value came from; it is a recipe itself."""
    if not schema:
        sys.stdout.write(annotated_yaml(arguments or []))
        return
    recipe, _ = split_arguments(arguments or [])
    kinds = [load_config(arguments or []).command] if recipe else list(COMMANDS)
    for kind in kinds:
        table = Table(title=f"unmask {kind}", title_justify="left")
        table.add_column("key", no_wrap=True)
        for name in ("type", "default", "meaning"):
            table.add_column(name, overflow="fold")
        for row in schema_rows(COMMANDS[kind]):
            table.add_row(*row)
        # Off a terminal nothing says how wide a line may be.
        width = None if console.is_terminal else 160
        console.print(table, highlight=False, markup=False, width=width)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on standard error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [item for item in arguments if item != "--debug"]
    _configure(debug)
    from unmask.errors import Diverged, Preempted

    try:
        app(arguments, prog_name="unmask")
    except Preempted as stop:
        _fail(f"stopped: {stop}; go on with checkpoint.resume=auto", 3)
    except (ValueError, OSError) as error:
        if debug:
            raise
        _fail(" ".join(str(error).split()), 2)
    except Diverged as error:
        if debug:
            raise
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted at once; nothing was saved after the last checkpoint", 1)


def _train_config(arguments: list[str] | None) -> TrainConfig:
    """A recipe whose task and model exist, before anything heavy is imported."""
    config = load_config(arguments or [], "train")
    assert isinstance(config, TrainConfig)
    find_local_model(config.model.path)
    get_task(config.task.name, config.sandbox, **config.task.options)
    return config


def _dry_run(config: TrainConfig) -> None:
    from unmask.models.rehearsal import family_of
    from unmask.training.dry_run import shrink
    from unmask.training.trainer import Trainer

    spec = family_of(config.model.path, config.model.family)
    with tempfile.TemporaryDirectory(prefix="unmask-dry-run-") as folder:
        results = Trainer(config=shrink(config, Path(folder)), show=False).train()
    console.print(
        f"dry run: {results['rollouts']} rounds with {results['completions']} completions were "
        f"written, scored, learnt from, saved and measured in {results['seconds']:.1f} s, on a "
        f"tiny random model of the family {spec.name if spec else 'native'}",
        highlight=False,
        soft_wrap=True,
    )


def _configure(debug: bool) -> None:
    """Quiet libraries, and our own warnings in one place."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not debug:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=console, show_path=debug, show_time=False)],
    )


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"unmask: {message}\n")
    raise SystemExit(code)


def _is_override(text: str) -> bool:
    name, equals, _ = text.partition("=")
    return bool(equals) and name.split(".")[0] in TrainConfig.model_fields


def _print_before_after(results: dict[str, Any]) -> None:
    if not results["before"]:
        return
    table = Table("solved", "before", "after")
    for name in results["before"]:
        table.add_row(name, *(_interval(results[when][name]) for when in ("before", "after")))
    console.print(table)


def _interval(row: dict[str, Any]) -> str:
    if row["accuracy"] is None:
        return "-" if row["reward"] is None else f"reward {row['reward']:.3f}"
    return f"{row['accuracy']:.1%}  [{row['low']:.1%}, {row['high']:.1%}]  n = {row['n']}"


if __name__ == "__main__":
    main()
