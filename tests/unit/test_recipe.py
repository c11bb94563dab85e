"""Recipes and dotted overrides on their way to a config, and the config on its way back to text."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from unmask.config import COMMANDS, SFTConfig, TrainConfig
from unmask.recipe import (
    ConfigError,
    config_hash,
    find_recipe,
    load_config,
    schema_rows,
    split_arguments,
    to_yaml,
    validate,
)

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("sampler: {gen_length: 16, block_length: 8, steps: 8}\nseed: 7\n")
    return path


def refusal(*arguments: str | Path, command: str | None = "train") -> str:
    with pytest.raises(ConfigError) as error:
        load_config([str(argument) for argument in arguments], command)
    assert isinstance(error.value, ValueError)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- recipes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_found_by_its_name(path: Path) -> None:
    config = load_config([path.stem])
    assert config == load_config([str(path)])
    assert config == load_config([f"recipes/{path.name}"])
    assert set(yaml.safe_load(path.read_text())) <= set(type(config).model_fields)


def test_no_recipe_is_the_demonstration() -> None:
    assert load_config([], "train") == load_config(["sudoku-tiny"], "train")
    assert load_config([], "sft") == load_config(["sudoku-tiny-expert"], "sft")
    assert load_config([], "compare") == load_config(["study-sudoku"], "compare")
    assert load_config(["seed=3"], "train").seed == 3


def test_justgrpo_writes_in_the_order_that_it_reads() -> None:
    named = load_config(["objective.name=justgrpo"], "train")
    assert isinstance(named, TrainConfig)
    assert named.sampler.remasking == "left_to_right"
    other = load_config(["objective.name=justgrpo", "sampler.remasking=random"], "train")
    assert isinstance(other, TrainConfig)
    assert other.sampler.remasking == "random"


def test_an_unknown_recipe_lists_the_shipped_ones() -> None:
    message = refusal("sudoku-tyni")
    assert message.startswith("recipe 'sudoku-tyni' is neither a file nor a shipped recipe")
    for path in SHIPPED:
        assert path.stem in message
    with pytest.raises(ConfigError, match=r"recipe 'elsewhere/sudoku-tiny'"):
        find_recipe("elsewhere/sudoku-tiny")


def test_a_model_in_the_place_of_a_recipe_is_told_from_a_misspelled_one(tmp_path: Path) -> None:
    for model in ("tiny-sudoku", str(tmp_path)):
        assert refusal(model, command="eval").endswith(f"not a recipe: give model={model}")


def test_a_recipe_for_another_command_is_refused() -> None:
    assert refusal("sudoku-tiny-base") == (
        "sudoku-tiny-base.yaml is a recipe for `unmask sft`: choose one for `unmask train`"
    )
    assert "is a recipe for `unmask train`" in refusal("sudoku-tiny", command="sft")
    assert isinstance(load_config(["sudoku-tiny-base"]), SFTConfig)
    assert isinstance(load_config(["sudoku-tiny"]), TrainConfig)


@pytest.mark.parametrize("command", ["fly", "[train]"])
def test_an_unknown_command_is_refused(recipe: Path, command: str) -> None:
    message = refusal(recipe, f"command={command}", command=None)
    assert message.endswith("in mine.yaml is unknown: choose train, sft, compare")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sampler: {gen_length: 16", "give valid YAML"),
        ("seed: 1\nseed: 2\n", "give valid YAML"),
        ("- seed\n- 1\n", "holds no mapping: a recipe is a YAML mapping of sections"),
        ("42", "give valid YAML"),
        ("seed: ${nowhere}", "give valid YAML"),
        ("1: 2", "1 is an unknown key"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    message = refusal(path)
    assert words in message
    assert "broken.yaml" in message or "unknown key" in message


def test_a_binary_file_is_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    assert "give valid YAML" in refusal(path)


def test_an_empty_file_is_the_default_run(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.touch()
    config = load_config([str(path)], "train")
    assert config.output_dir == "runs/empty-{time}"
    assert config == TrainConfig(output_dir="runs/empty-{time}")


# --- overrides ----------------------------------------------------------------------------------


@pytest.mark.parametrize("override", ["objective=[]", "sampler=[1]", "objective=[espo]"])
def test_a_list_in_place_of_a_section_is_refused_with_the_override(override: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(["sudoku-tiny", override], "train")
    assert str(error.value).startswith(f"{override}: a list stands where sudoku-tiny.yaml has")


def test_overrides_are_yaml_and_reach_into_sections(recipe: Path) -> None:
    config = load_config(
        [
            str(recipe),
            "optimizer.lr=1e-4",
            "optimizer.betas=[0.5, 0.6]",
            "model.lora.r=4",
            "logging.trackers=[]",
            "task.dataset=null",
            "training.precision=fp32",
            "objective={name: espo, beta: 0}",
            "task.options={min_blanks: 2}",
            "output_dir=out",
            "evaluation.greedy=false",
            "model.path=org/name",
            "sampler.steps=4",
        ],
        "train",
    )
    assert config.optimizer.lr == 1e-4
    assert config.optimizer.betas == (0.5, 0.6)
    assert config.model.lora is not None
    assert (config.model.lora.r, config.model.lora.alpha) == (4, 64)
    assert config.logging.trackers == []
    assert config.task.dataset is None
    assert config.training.precision == "fp32"
    assert config.objective.beta == 0
    assert config.task.options == {"min_blanks": 2}
    assert config.output_dir == "out"
    assert config.evaluation.greedy is False
    assert config.model.path == "org/name"
    assert (config.sampler.gen_length, config.sampler.steps, config.seed) == (16, 4, 7)


def test_the_last_override_wins(recipe: Path) -> None:
    assert load_config([str(recipe), "seed=1", "seed=2"], "train").seed == 2


@pytest.mark.parametrize("item", ["seed", "--seed=3", "=3", "3=4", "seed: 3", "reward[0]=a:b"])
def test_what_is_no_override_is_refused(recipe: Path, item: str) -> None:
    assert refusal(recipe, item) == f"{item!r} is no override: write key=value, such as seed=7"


def test_an_override_is_checked_together_with_the_recipe(recipe: Path) -> None:
    assert refusal(recipe, "sampler.steps=7").startswith("sampler.steps=7 does not split over 2")
    assert refusal(recipe, "sampler.stpes=7").endswith("did you mean steps?")


def test_a_value_that_is_no_yaml_is_refused(recipe: Path) -> None:
    assert "give valid YAML and key=value overrides" in refusal(recipe, "seed=[1")


def test_the_first_argument_without_an_equals_sign_is_the_recipe() -> None:
    assert split_arguments(["a", "b=1"]) == ("a", ["b=1"])
    assert split_arguments(["b=1"]) == (None, ["b=1"])
    assert split_arguments([]) == (None, [])


def test_resume_is_short_for_checkpoint_resume(recipe: Path) -> None:
    assert load_config([str(recipe), "resume=auto"], "train").checkpoint.resume == "auto"
    assert load_config([str(recipe)], "train").checkpoint.resume == "never"
    assert load_config(["resume=auto"], "sft").checkpoint.resume == "auto"


def test_the_output_folder_is_called_after_the_recipe(recipe: Path) -> None:
    assert load_config([str(recipe)], "train").output_dir == "runs/mine-{time}"
    assert load_config([str(recipe), "output_dir=x/{recipe}"], "train").output_dir == "x/mine"


# --- back to text -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_resolved_config_is_a_recipe_that_gives_itself(path: Path, tmp_path: Path) -> None:
    config = load_config([path.stem])
    written = tmp_path / "written.yaml"
    written.write_text(to_yaml(config))
    assert load_config([str(written)], config.command) == config
    assert config_hash(load_config([str(written)])) == config_hash(config)


def test_names_and_adapters_survive_the_way_to_text_and_back(tmp_path: Path) -> None:
    config = validate(
        TrainConfig,
        {
            "objective": {"name": "espo", "epsilon_high": 0.3},
            "estimator": {"name": "one_step", "p_mask_prompt": 0.0},
            "model": {"lora": {"target_modules": ["q_proj"]}},
            "reward": [{"function": "a:b", "weight": 0.5}],
            "output_dir": "läufe/{time}",
        },
    )
    written = tmp_path / "written.yaml"
    written.write_text(to_yaml(config), "utf-8")
    assert load_config([str(written)], "train") == config
    assert "läufe" in to_yaml(config)


def test_the_hash_tells_settings_apart_that_change_results() -> None:
    base = config_hash(validate(TrainConfig, {}))
    changes = [
        {"seed": 1},
        {"sampler": {"temperature": 0.9}},
        {"objective": {"beta": 0.1}},
        {"estimator": {"num_mc": 3}},
        {"model": {"lora": {}}},
        {"training": {"num_rollouts": 9}},
        {"optimizer": {"lr": 1e-3}},
        {"task": {"options": {"size": 9}}},
    ]
    hashes = {config_hash(validate(TrainConfig, change)) for change in changes}
    assert len({base, *hashes}) == len(changes) + 1


@pytest.mark.parametrize(
    "change",
    [
        {"output_dir": "elsewhere"},
        {"logging": {"trackers": [], "rollouts": False}},
        {"checkpoint": {"resume": "auto"}},
        {"seed": 42},
    ],
    ids=str,
)
def test_the_hash_ignores_where_a_run_writes_and_how_it_resumes(change: dict) -> None:
    assert config_hash(validate(TrainConfig, change)) == config_hash(validate(TrainConfig, {}))


# --- documentation ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_of_the_schema_has_a_doc(command: str) -> None:
    rows = list(schema_rows(COMMANDS[command]))
    assert [key for key, _, _, doc in rows if not doc or doc.endswith(": ")] == []
    assert [key for key, kind, _, _ in rows if not kind] == []
    keys = {key for key, *_ in rows}
    written = yaml.safe_load(to_yaml(COMMANDS[command]()))

    def leaves(values: dict, prefix: str = "") -> set[str]:
        return {
            key
            for name, value in values.items()
            for key in (
                leaves(value, f"{prefix}{name}.")
                if isinstance(value, dict) and value
                else {f"{prefix}{name}"}
            )
        }

    assert leaves(written) <= keys


def test_schema_rows_show_the_defaults_that_apply() -> None:
    train = {(key, doc): default for key, _, default, doc in schema_rows(TrainConfig)}
    sft = {(key, doc): default for key, _, default, doc in schema_rows(SFTConfig)}

    def default(rows: dict, key: str, start: str = "") -> str:
        (found,) = [value for (k, doc), value in rows.items() if k == key and doc.startswith(start)]
        return found

    assert default(train, "optimizer.lr") == "3e-06"
    assert default(sft, "optimizer.lr") == "0.001"
    assert default(sft, "checkpoint.every") == "500"
    assert default(train, "estimator.num_mc", "elbo: ") == "2"
    assert default(sft, "estimator.num_mc", "elbo: ") == "1"
    assert default(train, "estimator.num_mc", "time_uniform: ") == "16"
    assert default(train, "objective.name") == '"espo"'
    assert default(train, "reward[].function") == ""
    assert default(train, "model.lora.r") == "128"


# --- speed --------------------------------------------------------------------------------------


def test_a_mistake_is_reported_within_two_seconds_and_before_torch_is_imported() -> None:
    script = (
        "import sys, time\n"
        "from unmask.recipe import ConfigError, load_config\n"
        "try:\n"
        "    load_config(['sudoku-tiny', 'sampler.gen_lenght=3'], 'train')\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'datasets', 'peft'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "print(time.process_time())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    message, heavy, seconds = run.stdout.splitlines()
    assert message == "sampler.gen_lenght is an unknown key: did you mean gen_length?"
    assert heavy == "[]"
    assert float(seconds) < 2
