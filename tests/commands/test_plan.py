"""tfnmt-plan: from a corpus to a ranking, and to the command that starts the first one."""

import json
import re
import subprocess
import sys
import threading

import pytest

from tests.jobs import SHALLOW
from tests.programs import SECONDS, run
from tfnmt.cluster.link_speed import Answering
from tfnmt.commands.plan import PlanSettings
from tfnmt.data.settings import DataSettings
from tfnmt.run_directory import RunDirectory
from tfnmt.settings import faults_of

QUICK = """
from tfnmt.commands import plan
from tfnmt.planning import probe
probe.STEP_SECONDS = probe.UPDATE_SECONDS = probe.MEETING_SECONDS = 0.1
plan.main()
"""


@pytest.fixture(name="planned", scope="module")
def _planned(corpus, tmp_path_factory):
    """The directory of a plan whose probe was short, and what was printed."""
    output = tmp_path_factory.mktemp("plan") / "plan"
    words = [f"--data={corpus}", *SHALLOW, "--batch_positions=256", "--workers=2,3", "--local_steps=4", "--threads=1"]
    command = [sys.executable, "-c", QUICK, *words, f"--output={output}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stderr
    # A busy machine makes the probe's cluster wait, which is said.
    expected = r"[\d:]+ (Probing: |Predicting: |warning: Waiting for )"
    assert all(re.match(expected, line) for line in ended.stderr.splitlines()), ended.stderr
    return output, ended.stdout


def test_a_machine_is_measured(planned):
    output, printed = planned
    probe = json.loads((output / "plan.json").read_text())["probe"]
    assert probe["batch_tokens"] > 50
    assert probe["seconds_per_token"] > 0
    assert probe["server_seconds_per_byte"] > 0
    assert f"a step of {probe['batch_tokens']:,} target tokens" in printed
    assert (output / "plan.png").stat().st_size > 1000


def test_the_flagfiles_start_what_was_planned(planned, tmp_path):
    """What the plan says of the first one is what the simulated engine is told."""
    output, printed = planned
    document = json.loads((output / "plan.json").read_text())
    first = document["ranking"][0]
    assert (output / "plan.md").read_text().splitlines()[2] in printed
    assert f"--flagfile={output / 'start.flags'}" in printed
    said, _ = run(
        "train", f"--flagfile={output / 'simulated.flags'}", f"--run_directory={tmp_path / 'run'}", "--dry_run"
    )
    assert f"Strategy: {first['flags']['strategy']}, adam; {first['workers']} virtual workers" in said
    assert re.search(rf"--seconds_per_token +{document['probe']['seconds_per_token']} ", said)


def test_a_probe_and_a_run_are_taken_up(planned, corpus, tmp_path):
    """Hours need no training: the run's curve says the tokens, the plan the tokens per second."""
    output, _ = planned
    metrics = [
        {"kind": "training", "update": 10, "noise_scale_tokens": 500.0},
        {"kind": "validation", "update": 10, "bleu": 12.0, "target_tokens": 5_000},
        {"kind": "validation", "update": 20, "bleu": 20.0, "target_tokens": 10_000},
    ]
    trained = tmp_path / "trained"
    made = RunDirectory.create_or_check(trained, DataSettings(data=str(corpus)))
    for record in metrics:
        made.append_metrics(record)
    words = [
        f"--data={corpus}",
        *SHALLOW,
        f"--probe={output / 'plan.json'}",
        f"--run_directory={trained}",
        "--workers=2",
    ]
    goal = ["--target_bleu=11", "--price_per_hour=2"]
    with Answering(0) as answering:
        threading.Thread(target=answering.serve_forever, args=(0.05,)).start()
        host = f"--hosts=127.0.0.1:{answering.server_address[1]}"
        said, _ = run("plan", *words, *goal, host, f"--output={tmp_path / 'second'}")
        answering.shutdown()
    assert "Critical batch: 500 target tokens." in said
    assert "Hours are those to a validation BLEU of 11.0." in said
    second, first = (json.loads((path / "plan.json").read_text()) for path in (tmp_path / "second", output))
    assert second["costs"]["network_bytes_per_second"] != first["costs"]["network_bytes_per_second"] == 1.25e8
    assert second["goal"]["tokens"] == pytest.approx(5_000 / (1 + 500 / 500))
    larger = tmp_path / "larger"
    made = RunDirectory.create_or_check(larger, DataSettings(data=str(corpus)))
    made.append_metrics({"kind": "validation", "update": 6, "bleu": 12.0, "target_tokens": 6_000})
    both = [word.replace(str(trained), f"{trained},{larger}") for word in words]
    said, _ = run("plan", *both, "--target_bleu=12", f"--output={tmp_path / 'both'}")
    # 6,000 tokens with updates of 1,000, 5,000 with updates of 500: 1.2 = (1 + 1000 / B*) / (1 + 500 / B*).
    assert "Critical batch: 2,000 target tokens." in said
    _, refused = run("plan", *words, f"--output={tmp_path / 'third'}", "--target_bleu=30", expect=2)
    assert refused == f"error: --target_bleu=30: {trained} has come to 20.0; take that or less.\n"


def test_bad_numbers():
    assert faults_of(PlanSettings(output="plan", workers=("1", "2"), local_steps=("x",))) == [
        "--workers=1,2: must be numbers from 2 on, with commas in between.",
        "--local_steps=x: must be numbers from 1 on, with commas in between.",
    ]


@pytest.mark.parametrize(
    "word, fault",
    [
        (
            "--hosts=a:7000 --network_bytes_per_second=1e6",
            "--network_bytes_per_second does nothing with --hosts, which measure it.",
        ),
        ("--probe=none.json", "--probe=none.json: is no plan.json of tfnmt-plan: "),
    ],
)
def test_bad_input(word, fault, corpus, tmp_path):
    _, said = run("plan", f"--data={corpus}", *SHALLOW, f"--output={tmp_path / 'plan'}", *word.split(), expect=2)
    assert said.startswith(f"error: {fault}")
