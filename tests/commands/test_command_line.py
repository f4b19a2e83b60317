"""Command lines: flags become settings, and everything wrong is found at once."""

import dataclasses

import pytest

from tfnmt.commands.command_line import Choice, CommandLine, HelpRequested
from tfnmt.commands.help_text import help_text
from tfnmt.errors import UserError
from tfnmt.settings import flagfile_text, setting


@dataclasses.dataclass(frozen=True)
class ChoiceSettings:
    """Which model."""

    model: str = setting("attentive", "Model.", choices=("attentive", "recurrent"))


@dataclasses.dataclass(frozen=True)
class BaseSettings:
    """What every model has."""

    width: int = setting(8, "Width D.", minimum=1)
    dropout: float = setting(0.1, "Share dropped.", minimum=0, maximum=0.9)


@dataclasses.dataclass(frozen=True)
class AttentiveSettings(BaseSettings):
    """A model with attention alone."""

    heads: int = setting(4, "Heads.", minimum=1)

    def faults(self):
        """Impossible combinations."""
        return [] if self.width % self.heads == 0 else [f"--heads={self.heads} does not divide --width={self.width}."]


@dataclasses.dataclass(frozen=True)
class RecurrentSettings(BaseSettings):
    """A recurrent model."""

    dropout: float = setting(0.2, "Share dropped.", minimum=0, maximum=0.9)
    cell: str = setting("gru", "Cell.", choices=("gru", "lstm"))


@dataclasses.dataclass(frozen=True)
class FileSettings:
    """What is read."""

    source: tuple[str, ...] = setting((), "Files.")
    languages: tuple[str, ...] = setting(("de", "en"), "Languages.", choices=("de", "en", "fr"))
    lowercase: bool = setting(False, "Whether to lowercase.")
    limit: int | None = setting(None, "Sentences.", minimum=1)
    name: str = setting("", "Name.")
    share: float = setting(0.5, "Share.", above=0, below=1)


@dataclasses.dataclass(frozen=True)
class UpdateSettings:
    """Flags that count with others alone."""

    optimizer: str = setting("adam", "Optimizer.", choices=("adam", "adamw", "sgd"))
    beta: float = setting(0.9, "Decay.", only_with={"optimizer": ("adam", "adamw"), "local_steps": None})
    cooldown: int = setting(0, "Updates.", only_with={"optimizer": ("adam", "adamw")})
    cooldown_beta: float = setting(0.92, "Decay from then on.", only_with={"cooldown": None})
    split: str = setting("test", "Split.", only_with={"reference": ("",)})
    reference: str = setting("", "File.")
    micro_steps: int = setting(1, "Steps.", minimum=1, formerly="micro_batches")
    elsewhere: int = setting(1, "Number.", only_with={"flag_of_another_command": ("yes",)})


@dataclasses.dataclass(frozen=True)
class LocalSettings(UpdateSettings):
    """One more flag, and one that never counts."""

    local_steps: int = setting(0, "Steps.")
    split: str = setting("test", "The whole text is read.", only_with={})


@dataclasses.dataclass(frozen=True)
class RequiredSettings:
    run_directory: str = setting("", "The directory of the run.", required=True)


@dataclasses.dataclass(frozen=True)
class PathSettings:
    """What begins at the home directory."""

    files: tuple[str, ...] = setting((), "Files.", is_path=True)
    output: str = setting("~/out", "File.", is_path=True)
    text: str = setting("", "No file.")


MODELS = Choice("model", {"attentive": AttentiveSettings, "recurrent": RecurrentSettings})


def _parse(*words: str):
    return CommandLine([ChoiceSettings, MODELS, FileSettings]).parse(words)


def _faults(*words: str) -> list[str]:
    with pytest.raises(UserError) as refusal:
        _parse(*words)
    return list(refusal.value.faults)


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Values.


def test_without_flags_every_default_holds():
    assert _parse() == [ChoiceSettings(), AttentiveSettings(), FileSettings()]


def test_paths_may_begin_at_the_home_directory(monkeypatch, directory):
    monkeypatch.setenv("HOME", str(directory))
    (directory / "text.flags").write_text("--text=~/c\n")
    (paths,) = CommandLine([PathSettings]).parse(["--flagfile=~/text.flags", "--files=~/a,/b/~,-"])
    assert paths == PathSettings((f"{directory}/a", "/b/~", "-"), f"{directory}/out", "~/c")


def test_every_type_of_value():
    _, model, files = _parse(
        "--width=16", "--dropout=1e-1", "--source=a,b", "--languages=fr", "--lowercase", "--limit=3", "--name=x=y z"
    )
    assert model == AttentiveSettings(width=16)
    assert files == FileSettings(("a", "b"), ("fr",), True, 3, "x=y z")


@pytest.mark.parametrize("words", [("--width", "16"), ("-width=16",), ("--width=8", "--width=16")])
def test_ways_to_give_a_value(words):
    assert _parse(*words)[1].width == 16


@pytest.mark.parametrize(
    ("word", "value"),
    [("--lowercase", True), ("--nolowercase", False), ("--lowercase=true", True), ("--lowercase=0", False)],
)
def test_ways_to_give_a_truth(word, value):
    assert _parse("--lowercase=true", word)[2].lowercase is value


def test_a_negative_number_may_be_a_word_of_its_own():
    assert _faults("--dropout", "-1") == ["--dropout=-1.0: must be at least 0."]


def test_an_empty_value():
    files = _parse("--limit=7", "--limit=", "--source=", "--name=")[2]
    assert files == FileSettings(source=(), limit=None, name="")


def test_commas_inside_an_item_are_quoted():
    files = FileSettings(source=("a,b", 'c"d', "e f"))
    line = flagfile_text(files).splitlines()[1]
    assert _parse(line)[2].source == files.source


def test_what_was_given_is_known():
    command_line = CommandLine([ChoiceSettings, MODELS])
    command_line.parse(["--width=8"])
    assert command_line.given.keys() == {"width"}


# One class among several.


def test_the_chosen_class_is_made_with_its_own_defaults():
    assert _parse("--model=recurrent", "--cell=lstm")[1] == RecurrentSettings(cell="lstm")
    assert _parse("--model=recurrent")[1].dropout == 0.2
    assert _parse("--model=recurrent", "--dropout=0.3", "--width=2")[1] == RecurrentSettings(width=2, dropout=0.3)


def test_flags_that_the_chosen_class_lacks_are_refused():
    assert _faults("--model=recurrent", "--heads=4") == ["--heads does nothing with --model=recurrent."]


@pytest.mark.parametrize(
    ("words", "faults"),
    [
        (["--beta=0.8", "--optimizer=adamw"], []),
        (["--beta=0.8", "--optimizer=sgd"], ["--beta does nothing with --optimizer=sgd; leave it out."]),
        # The default too does nothing.
        (["--optimizer=sgd", "--beta=0.9"], ["--beta does nothing with --optimizer=sgd; leave it out."]),
        (["--cooldown_beta=0.5", "--cooldown=3"], []),
        (["--cooldown_beta=0.5"], ["--cooldown_beta does nothing with --cooldown=0; leave it out."]),
        (
            ["--cooldown_beta=0.5", "--cooldown=3", "--optimizer=sgd"],
            [
                "--cooldown_beta does nothing with --optimizer=sgd; leave it out.",
                "--cooldown does nothing with --optimizer=sgd; leave it out.",
            ],
        ),
        (["--split=train"], []),
        (["--split=train", "--reference=a"], ["--split does nothing with --reference=a; leave it out."]),
        (["--elsewhere=3"], []),
    ],
)
def test_flags_that_do_nothing_with_others_are_refused(words, faults):
    command_line = CommandLine([UpdateSettings])
    if not faults:
        assert command_line.parse(words)
        return
    with pytest.raises(UserError) as refusal:
        command_line.parse(words)
    assert list(refusal.value.faults) == faults


def test_one_condition_of_several_is_enough():
    assert CommandLine([LocalSettings]).parse(["--optimizer=sgd", "--beta=0.8", "--local_steps=2"])
    with pytest.raises(UserError, match="--beta does nothing with --local_steps=0 and --optimizer=sgd; leave it out"):
        CommandLine([LocalSettings]).parse(["--optimizer=sgd", "--beta=0.8"])


def test_a_flag_that_never_counts_says_what_does():
    with pytest.raises(UserError, match=r"^--split does nothing here\. The whole text is read\.$"):
        CommandLine([LocalSettings]).parse(["--split=test"])


def test_a_flagfile_of_all_settings_may_hold_the_defaults_of_flags_that_do_nothing(directory):
    settings = [LocalSettings(optimizer="sgd")]
    (directory / "flags.txt").write_text(flagfile_text(*settings))
    assert CommandLine([LocalSettings]).parse(["--flagfile=flags.txt"]) == settings
    (directory / "flags.txt").write_text("--optimizer=sgd\n--cooldown=7\n")
    with pytest.raises(UserError, match=r"flags\.txt:2: --cooldown does nothing with --optimizer=sgd; leave it out"):
        CommandLine([LocalSettings]).parse(["--flagfile=flags.txt"])


def test_a_flag_goes_by_its_former_name_too(directory):
    (directory / "old.flags").write_text("--micro_batches=2\n")
    command_line = CommandLine([UpdateSettings])
    assert command_line.parse(["--flagfile=old.flags"])[0].micro_steps == 2
    assert command_line.parse(["--flagfile=old.flags", "--micro_steps=3"])[0].micro_steps == 3
    with pytest.raises(UserError, match=r"^--micro_steps=0: must be at least 1"):
        command_line.parse(["--micro_batches=0"])
    assert "(a whole number, at least 1, formerly --micro_batches)" in help_text("tfnmt-act", "Acts.", command_line)


def test_help_says_when_a_flag_counts_and_is_silent_about_those_that_never_do():
    shown = help_text("tfnmt-act", "Acts.", CommandLine([LocalSettings]))
    assert "(a number, only with --optimizer=adam or --optimizer=adamw or --local_steps)" in shown
    assert "--split" not in shown


def test_a_choice_that_does_not_exist_is_refused_once():
    assert _faults("--model=linear", "--heads=2") == ["--model=linear: must be one of attentive, recurrent."]


def test_combinations_are_judged_for_the_chosen_class_alone():
    assert _parse("--width=9", "--model=recurrent")[1].width == 9
    assert _faults("--width=9") == ["--heads=4 does not divide --width=9."]


def test_two_classes_must_agree_on_a_type():
    @dataclasses.dataclass(frozen=True)
    class OtherSettings:
        width: float = setting(1.0, "Width.")

    with pytest.raises(ValueError, match="--width"):
        CommandLine([BaseSettings, OtherSettings])


# Faults.


def test_all_faults_are_found_at_once():
    assert _faults("--hedas=3", "--width=0", "--limit=many", "--languages=de,xx", "stray", "--nolowercas") == [
        "--hedas is not a flag of this command. Did you mean --heads?",
        "--limit=many: must be a whole number.",
        "'stray' is not a flag; write --name=value.",
        "--nolowercas is not a flag of this command. Did you mean --nolowercase?",
        "--width=0: must be at least 1.",
        "--languages=de,xx: must be one of de, en, fr.",
    ]


def test_the_value_of_an_unknown_flag_is_not_a_fault_too():
    assert _faults("--qqqq", "3") == ["--qqqq is not a flag of this command."]


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("--width", "--width needs a value."),
        ("--width=1.5", "--width=1.5: must be a whole number."),
        ("--dropout=much", "--dropout=much: must be a number."),
        ("--dropout=nan", "--dropout=nan: must be a number."),
        ("--dropout=0.95", "--dropout=0.95: must be at most 0.9."),
        ("--share=0", "--share=0.0: must be above 0."),
        ("--share=1", "--share=1.0: must be below 1."),
        ("--share=nan", "--share=nan: must be a number."),
        ("--lowercase=perhaps", "--lowercase=perhaps: must be true or false."),
        ("--model=", "--model is missing: Model."),
        ("--limit=0", "--limit=0: must be at least 1."),
        ("--", "'--' is not a flag; write --name=value."),
    ],
)
def test_each_kind_of_bad_value(word, fault):
    assert fault in _faults(word)


def test_a_required_flag_is_missed():
    with pytest.raises(UserError, match="--run_directory is missing: The directory of the run"):
        CommandLine([RequiredSettings]).parse([])


@pytest.mark.parametrize(("word", "full"), [("--help", False), ("-h", False), ("--helpfull", True)])
def test_help_comes_before_every_fault(word, full):
    with pytest.raises(HelpRequested) as request:
        _parse("--hedas=3", word)
    assert request.value.full is full


# Flagfiles.


def test_a_flagfile_gives_flags(directory):
    (directory / "small.flags").write_text("# The small model.\n\n--width=4\n  --lowercase  \n// And:\n--name\nAda\n")
    _, model, files = _parse("--flagfile=small.flags")
    assert (model.width, files.lowercase, files.name) == (4, True, "Ada")


@pytest.mark.parametrize("words", [("--width=6", "--flagfile=a"), ("--flagfile", "a", "--width=6")])
def test_the_command_line_overrides_flagfiles_wherever_it_names_them(directory, words):
    (directory / "a").write_text("--width=4\n--heads=2\n")
    assert _parse(*words)[1] == AttentiveSettings(width=6, heads=2)


def test_a_later_flagfile_overrides_an_earlier_one(directory):
    (directory / "a").write_text("--width=4\n")
    (directory / "b").write_text("--width=12\n")
    assert _parse("--flagfile=a", "--flagfile=b")[1].width == 12


def test_flagfiles_name_others_beside_them_or_from_here(directory):
    (directory / "configs").mkdir()
    (directory / "configs" / "outer.flags").write_text("--width=4\n--flagfile=inner.flags\n--flagfile=here.flags\n")
    (directory / "configs" / "inner.flags").write_text("--width=12\n--heads=1\n")
    (directory / "here.flags").write_text("--dropout=0.5\n")
    assert _parse("--flagfile=configs/outer.flags")[1] == AttentiveSettings(width=4, heads=1, dropout=0.5)


def test_faults_in_flagfiles_name_file_and_line(directory):
    (directory / "a.flags").write_text(
        "--model=recurrent\n# Too small:\n--width=0\n--heads=4\n--dropuot=1\n--limit=x\nword"
    )
    assert _faults("--flagfile=a.flags") == [
        "a.flags:5: --dropuot is not a flag of this command. Did you mean --dropout?",
        "a.flags:6: --limit=x: must be a whole number.",
        "a.flags:7: 'word' is not a flag; write --name=value.",
        "a.flags:3: --width=0: must be at least 1.",
        "a.flags:4: --heads does nothing with --model=recurrent.",
    ]


def test_a_byte_order_mark_in_a_flagfile_is_dropped(directory):
    (directory / "a.flags").write_text("\ufeff--width=32\n")
    assert _parse("--flagfile=a.flags")[1].width == 32


def test_a_line_of_a_flagfile_needs_an_equals_sign(directory):
    (directory / "a.flags").write_text("--width 32\n--flagfile b.flags\n")
    assert _faults("--flagfile=a.flags") == [
        "a.flags:1: --width 32: a line of a flagfile needs an equals sign: --width=32.",
        "a.flags:2: --flagfile b.flags: a line of a flagfile needs an equals sign: --flagfile=b.flags.",
    ]


def test_missing_and_unreadable_flagfiles_are_named_with_the_nearest(directory):
    (directory / "tiny.flags").write_text("--flagfile=elsewhere\n")
    (directory / "binary").write_bytes(b"\xff\xfe")
    assert _faults("--flagfile=tyni.flags", "--flagfile=tiny.flags", "--flagfile=binary", "--width=0") == [
        "--flagfile=tyni.flags: No such file or directory. Did you mean tiny.flags?",
        "tiny.flags:1: --flagfile=elsewhere: No such file or directory.",
        "--flagfile=binary: not a text file.",
        "--width=0: must be at least 1.",
    ]


def test_flagfiles_that_name_each_other_are_refused(directory):
    (directory / "a").write_text("--flagfile=b\n")
    (directory / "b").write_text("--flagfile=a\n")
    assert _faults("--flagfile=a") == ["b:1: --flagfile=a: this file names itself, directly or through others."]


def test_settings_survive_a_flagfile(directory):
    settings = [
        ChoiceSettings("recurrent"),
        RecurrentSettings(width=3, dropout=0.30000000000000004, cell="lstm"),
        FileSettings(("a b", "c,d"), ("fr",), True, None, "# not a comment"),
    ]
    (directory / "flags.txt").write_text(flagfile_text(*settings))
    assert _parse("--limit=3", "--limit=", "--flagfile=flags.txt") == settings


# Flagfiles in YAML.


def test_a_flagfile_in_yaml_equals_the_one_in_lines(directory):
    (directory / "run.yaml").write_text(
        "# A run.\nmodel: recurrent\nwidth: 3\ndropout: 3e-1\nsource: [a b, 'c,d']\nlanguages:\n- fr\n"
        "lowercase: true\nname: no\nlimit: 4\n"
    )
    (directory / "run.flags").write_text(
        '--model=recurrent\n--width=3\n--dropout=0.3\n--source=a b,"c,d"\n--languages=fr\n--lowercase\n'
        "--name=no\n--limit=4\n"
    )
    found = _parse("--limit=3", "--flagfile=run.yaml")
    assert found == _parse("--limit=3", "--flagfile=run.flags")
    assert (found[1].dropout, found[2].source, found[2].name) == (0.3, ("a b", "c,d"), "no")


def test_a_flagfile_in_yaml_names_others_and_is_overridden(directory):
    (directory / "a.flags").write_text("--width=4\n--heads=1\n")
    (directory / "b.yml").write_text("width: 12\nflagfile: a.flags\n")
    assert _parse("--flagfile=b.yml", "--dropout=0.5")[1] == AttentiveSettings(width=12, heads=1, dropout=0.5)
    (directory / "empty.yaml").write_text("# nothing\n")
    assert _parse("--flagfile=empty.yaml") == _parse()
    for none in ("", "null", "~"):
        (directory / "none.yaml").write_text(f"limit: {none}\nsource: []\n")
        assert _parse("--flagfile=none.yaml") == _parse()


def test_faults_in_yaml_name_file_and_line(directory):
    (directory / "a.yaml").write_text(
        "model: recurrent\n\nwidth: 0\ndropuot: 1\nlimit: x\nwidth: 4\nsource:\n  en: text\n? [a]\n: 1\nwidth 7: 8\n"
    )
    assert _faults("--flagfile=a.yaml") == [
        "a.yaml:6: width: a.yaml:3 has given it already.",
        "a.yaml:7: source: a flag has one value, or a list of values.",
        "a.yaml:9: the name of a flag must stand before the colon.",
        "a.yaml:11: the name of a flag must stand before the colon.",
        "a.yaml:4: --dropuot is not a flag of this command. Did you mean --dropout?",
        "a.yaml:5: --limit=x: must be a whole number.",
        "a.yaml:3: --width=0: must be at least 1.",
    ]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("a: 1\nwidth: [4\n", "run.yaml:3: this is not YAML: "),
        ("--width=4\n--heads=2\n", "run.yaml:1: must be lines of a flag and its value: `dropout: 0.1`."),
        ("a: 1\n---\nb: 2\n", "run.yaml:2: this is not YAML: "),
        ("a: \0\n", "run.yaml:1: this is not YAML: "),
    ],
)
def test_what_is_no_yaml_is_refused(directory, content, fault):
    (directory / "run.yaml").write_text(content)
    (found,) = _faults("--flagfile=run.yaml")
    assert found.startswith(fault)
