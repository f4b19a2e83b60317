"""The flags of tfnmt-train: what each needs, what does nothing, and the presets."""

import dataclasses
import pathlib

import pytest

from tfnmt.commands.command_line import CommandLine
from tfnmt.commands.train_settings import REQUESTS, Settings, of_one_epoch, pipe_faults
from tfnmt.errors import UserError
from tfnmt.settings import flagfile_text
from tfnmt.strategies import STRATEGIES

PRESETS = sorted(pathlib.Path(__file__).parents[2].glob("configs/**/*.flags"))


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "single"])
def test_every_strategy_has_a_preset_that_chooses_it(name):
    assert _parse(f"--flagfile=configs/strategies/{name}.flags").strategy.strategy == name


def test_a_quorum_has_a_preset():
    row = _parse("--flagfile=configs/strategies/quorum.flags").row
    assert (type(row), row.quorum) == (STRATEGIES["sync"], 3)


def _parse(*words: str) -> Settings:
    return Settings(*CommandLine(REQUESTS).parse(["--run_directory=runs/a", *words]))


@pytest.mark.parametrize(
    "words",
    [
        "--beam_size=5",
        "--nbest=1",
        "--adam_beta1=0.8 --optimizer=sgd",
        "--adam_beta2=0.98 --optimizer=momentum",
        "--adam_epsilon=1e-8 --optimizer=nesterov",
        "--adam_epsilon=1e-8 --optimizer=sgd --strategy=delayed_async --local_optimizer_batches=0",
        "--adam_cooldown_updates=9 --optimizer=adagrad",
        "--adam_cooldown_beta1=0.5",
        "--adam_cooldown_beta2=0.5",
        "--eager_updates=true --strategy=streaming --fragment_delay=0",
        "--momentum=0.5",
        "--weight_decay=0.1 --optimizer=adam",
        "--adagrad_start=0.5",
        "--decay_updates=9 --schedule=constant",
        "--final_learning_rate=1e-5 --schedule=constant",
        "--plateau_factor=0.3",
        "--plateau_patience=2 --schedule=cosine",
        "--subword_alpha=0.5",
        "--producer_resumes=true",
        "--law_tokens=9",
        "--law_start_tokens=9",
        "--law_ramp_updates=9 --learning_rate_law=words",
        "--warm_start_law=linear",
    ],
)
def test_what_does_nothing_is_refused(words):
    with pytest.raises(UserError) as refusal:
        _parse(*words.split())
    (fault,) = refusal.value.faults
    assert fault.startswith(f"{words.partition('=')[0]} does nothing ")


@pytest.mark.parametrize(
    "words",
    [
        "--adam_beta1=0.8 --optimizer=adamw --weight_decay=0.1",
        "--adam_epsilon=1e-8 --optimizer=sgd --strategy=delayed_async",
        "--adam_cooldown_updates=9 --adam_cooldown_beta1=0.5",
        "--momentum=0.5 --optimizer=nesterov",
        "--schedule=cosine --decay_updates=9 --final_learning_rate=1e-5",
        "--schedule=plateau --plateau_patience=2 --plateau_factor=0.3",
        "--subword_nbest=-1 --subword_alpha=0.5",
        "--learning_rate_law=words --law_start_tokens=7200 --law_ramp_updates=9",
    ],
)
def test_what_does_something_is_not(words):
    assert _parse(*words.split())


def test_the_former_names_of_batch_sizes_are_understood():
    old = _parse("--batch_tokens=512", "--source_batch_tokens=600", "--decoding_batch_tokens=700")
    assert old == _parse("--batch_positions=512", "--source_batch_positions=600", "--decoding_batch_positions=700")
    assert (old.data.batch_positions, old.data.source_batch_positions) == (512, 600)


def test_conditions_name_flags_and_values_that_exist():
    fields = {field.name: field for cls in CommandLine(REQUESTS).classes for field in dataclasses.fields(cls)}
    for field in fields.values():
        for flag, values in (field.metadata["only_with"] or {}).items():
            assert set(values or ()) <= set(fields[flag].metadata["choices"] or ()), field.name


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_work_alone_and_from_what_a_run_records(path, tmp_path):
    settings = _parse(f"--flagfile={path}")
    (tmp_path / "flags.txt").write_text(flagfile_text(*settings))
    assert _parse(f"--flagfile={tmp_path / 'flags.txt'}") == settings


def test_a_pipe_is_read_once():
    settings = of_one_epoch(_parse("--train_pipe=-"))
    assert settings.stopping.max_epochs == 1 and pipe_faults(settings) == []
    assert of_one_epoch(_parse("--train_source=a")).stopping.max_epochs == 0


def test_what_does_not_go_with_a_pipe_is_refused(monkeypatch):
    monkeypatch.setenv("HOROVOD_ELASTIC", "1")
    faults = pipe_faults(_parse("--train_pipe=-", "--max_epochs=2", "--dry_run"))
    beginnings = [
        "--max_epochs=2: --train_pipe=- is read once",
        "--dry_run: would take",
        "--train_pipe=-: only as many",
    ]
    assert len(faults) == 3 and all(map(str.startswith, faults, beginnings))
    assert pipe_faults(_parse("--train_source=a", "--max_epochs=2", "--dry_run")) == []
    with pytest.raises(UserError, match="--train_source: --train_pipe brings the pairs"):
        _parse("--train_pipe=-", "--train_source=a")


@pytest.mark.parametrize("word", ["--momentum=1", "--momentum=1.5"])
def test_momentum_that_never_fades_is_refused(word):
    with pytest.raises(UserError, match="must be below 1"):
        _parse("--optimizer=momentum", word)
