"""The model that is chosen for a user who names none."""

import dataclasses
import logging

import pytest

from tests.data.text import generated_pairs, write_pair
from tfnmt import recorded_settings
from tfnmt.commands import presets
from tfnmt.commands.command_line import CommandLine
from tfnmt.commands.presets import choose, completed
from tfnmt.commands.train_settings import REQUESTS, Settings


def _completed(*words):
    line = CommandLine(REQUESTS)
    settings = Settings(*line.parse(words))
    return completed(settings, line.given.__contains__), settings


@pytest.fixture
def flags(tmp_path):
    write_pair(tmp_path, "train", generated_pairs(40))
    return [f"--data={tmp_path}", "--languages=en-de", f"--run_directory={tmp_path / 'run'}"]


def test_larger_corpora_and_machines_have_larger_models():
    sizes = [1, 9_999, 10_000, 999_999, 1_000_000, 9_999_999, 10_000_000]
    names = [[choose(pairs, has_gpu)[0].removeprefix("transformer_") for pairs in sizes] for has_gpu in (False, True)]
    assert names == [["tiny"] * 2 + ["small"] * 5, ["tiny"] * 2 + ["small"] * 2 + ["base"] * 2 + ["big"]]


@pytest.mark.parametrize("name", ["tiny", "small", "base", "big"])
def test_the_model_is_that_of_the_preset(flags, monkeypatch, name, caplog):
    monkeypatch.setattr(presets, "choose", lambda pairs, has_gpu: (f"transformer_{name}", f"{pairs} pairs"))
    preset = Settings(*CommandLine(REQUESTS).parse([*flags, f"--flagfile=configs/transformer_{name}.flags"]))
    with caplog.at_level(logging.INFO):
        assert _completed(*flags)[0] == preset
    assert f"Preset: configs/transformer_{name}.flags, because 40 pairs; --flagfile or --model" in caplog.text
    dropout, _ = _completed(*flags, "--dropout=0.35", "--learning_rate=0.5")
    assert dropout.model == dataclasses.replace(preset.model, dropout=0.35)
    assert dropout.schedule.learning_rate == 0.5


@pytest.mark.parametrize(
    "words",
    ["--model=recurrent", "--model=transformer", "--width=128", "--flagfile=configs/quickstart.flags", "--heads=2"],
)
def test_who_chooses_a_model_has_it(flags, words):
    settings, as_given = _completed(*flags, words)
    assert settings == as_given


def test_a_run_goes_on_with_its_model(flags, tmp_path, monkeypatch):
    """The corpus may have grown, and the machine be another one."""
    (tmp_path / "run").mkdir()
    begun, as_given = _completed(*flags)
    assert begun.model.width == 64 != as_given.model.width
    recorded_settings.write(tmp_path / "run", begun)
    monkeypatch.setattr(presets, "choose", lambda pairs, has_gpu: ("transformer_big", ""))
    assert _completed(*flags)[0] == begun
    assert recorded_settings.differences(tmp_path / "run", _completed(*flags)[0]) == []
    assert recorded_settings.differences(tmp_path / "run", as_given)


def test_a_pipe_of_unknown_length_has_the_small_model(flags, caplog):
    with caplog.at_level(logging.INFO):
        assert _completed(*flags, "--train_pipe=-")[0].model.width == 256
    assert "Preset: configs/transformer_small.flags, because a pipe does not tell" in caplog.text


def test_tasks_on_other_machines_choose_nothing(flags, monkeypatch):
    hosts = ["--chief_hosts=a:1", "--worker_hosts=b:1", "--ps_hosts=c:1", "--strategy=sync"]
    settings, as_given = _completed(*flags, "--engine=cluster", *hosts)
    assert settings == as_given
    for name, value in {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    settings, as_given = _completed(*flags)
    assert settings == as_given


def test_a_corpus_that_is_missing_is_told_later(flags, tmp_path):
    """By whoever reads it, after the faults of engine and strategy."""
    (tmp_path / "train.de").unlink()
    settings, as_given = _completed(*flags)
    assert settings == as_given
