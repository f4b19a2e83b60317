"""What a run tells: read back from the event files, the metrics and the log."""

import io
import json
import logging as python_logging
import math
import re
import warnings
from html import unescape
from pathlib import Path

import matplotlib.image
import pytest
import tensorflow as tf
from absl import logging
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, parse_session_start_info_plugin_data
from tensorboard.util.tensor_util import make_ndarray

from tests.training.reports import evaluation, pushed, report, totals_of
from tfnmt.cluster.addresses import ClusterSettings
from tfnmt.run_directory import RunDirectory
from tfnmt.settings import faults_of
from tfnmt.training import events, samples
from tfnmt.training.events import EventFile
from tfnmt.training.log_points import LAYOUT
from tfnmt.training.monitoring import Monitor, MonitoringSettings
from tfnmt.training.samples import attention_picture, markdown_table
from tfnmt.training.stopping import EarlyStopping, StoppingSettings
from tfnmt.training.totals import Totals

EVERY_TWO = MonitoringSettings(log_every_updates=2, log_every_seconds=1e9)
NO_LIMIT = StoppingSettings()


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    """A new run directory."""
    return RunDirectory.create_or_check(tmp_path / "run", EVERY_TWO)


@pytest.fixture
def lines():
    """The log's messages; absl's handler need not be there for it."""
    handler = python_logging.Handler()
    messages = []
    handler.emit = lambda record: messages.append(record.getMessage())
    logger, level = logging.get_absl_logger(), logging.get_verbosity()
    logger.addHandler(handler)
    logging.set_verbosity(logging.INFO)
    yield messages
    logging.set_verbosity(level)
    logger.removeHandler(handler)


def _train(run, reports, totals=None, settings=EVERY_TWO, evaluate_at=(), close=True) -> Totals:
    """Monitors one session and returns its totals."""
    totals, monitor = totals or Totals(), Monitor(run, settings, NO_LIMIT)
    monitor.describe([settings, NO_LIMIT], {"parameters": 123})
    for each in reports:
        totals += Totals.of(each)
        monitor.record(each, totals)
        if each.update in evaluate_at:
            monitor.evaluated(evaluation(bleu=float(each.update)), totals, EarlyStopping(30.0, each.update))
    if close:
        monitor.close()
    return totals


def _events(run) -> EventAccumulator:
    """What TensorBoard itself reads."""
    return EventAccumulator(str(run.events), size_guidance={"tensors": 0}).Reload()


def _html(markdown: str) -> str:
    """What TensorBoard's text page makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a parser that TensorBoard brings along
        from tensorboard.plugin_util import markdown_to_safe_html
    return unescape(markdown_to_safe_html(markdown))


def _curve(found, tag) -> list[tuple[int, float]]:
    return [(event.step, float(make_ndarray(event.tensor_proto))) for event in found.Tensors(tag)]


def test_values_come_back_by_tag_and_update(run):
    _train(run, [report(n, loss=100.0 * n, learning_rate=n / 8) for n in range(1, 7)])
    found = _events(run)
    # 1, then 2, then every two: the sums of the updates since the point before.
    assert _curve(found, "train/loss") == [(1, 1.0), (2, 2.0), (4, 3.5), (6, 5.5)]
    assert _curve(found, "train/learning_rate")[-1] == (6, 0.75)
    last = {tag: _curve(found, tag)[-1][1] for tag in found.Tags()["tensors"] if tag.startswith("train")}
    expected = {
        "train/cross_entropy": 2.0,
        "train/perplexity": math.exp(2.0),
        "train/gradient_norm": 1.0,
        "train_speed/target_tokens_per_second": 50.0,
        "train_speed/source_tokens_per_second": 40.0,
        "train_speed/sentences_per_second": 5.0,
        "train_speed/data_wait_share": 0.25,
        "train_speed/data_wait_seconds": 1.0,
        "train_speed/padding_share": 0.1,
        "train_progress/target_tokens": 600.0,
        "train_progress/training_hours": 12 / 3600,
        "train_progress/skipped_updates": 0.0,
    }
    assert {tag: last[tag] for tag in expected} == pytest.approx(expected, rel=1e-6)
    assert found.SummaryMetadata("train/cross_entropy").summary_description == "nats per target token"


def test_norm_of_the_momentum_is_told_where_there_is_one(run):
    _train(run, [report(1, momentum_norm=0.25)])
    assert _curve(_events(run), "train/momentum_norm") == [(1, 0.25)]


def test_the_noise_scale_is_told_once_it_is_known(run, lines):
    _train(run, [report(1), report(2, noise_scale_tokens=31250.0)])
    assert _curve(_events(run), "train/noise_scale_tokens") == [(2, 31250.0)]
    assert [record.get("noise_scale_tokens") for record in run.read_metrics()] == [None, 31250.0]
    assert ["noise scale 31,250 tokens" in line for line in lines] == [False, True]
    assert "noise" not in lines[0]


def test_log_points_sum_rather_than_average(run):
    small = report(3, loss=10.0, target_tokens=10, seconds=1.0)
    large = report(4, loss=2700.0, target_tokens=900, seconds=3.0)
    _train(run, [report(1), report(2), small, large])
    found = _events(run)
    assert _curve(found, "train/loss")[-1] == (4, pytest.approx(2710 / 910))
    assert _curve(found, "train/loss")[-1][1] != pytest.approx((10 / 10 + 2700 / 900) / 2, rel=0.1)
    assert _curve(found, "train_speed/target_tokens_per_second")[-1] == (4, 227.5)


def test_what_is_left_at_the_end_is_logged(run):
    _train(run, [report(n) for n in range(1, 6)])
    assert [step for step, _ in _curve(_events(run), "train/loss")] == [1, 2, 4, 5]


def test_the_time_left_goes_by_the_updates_behind_the_first(run, lines):
    """The first one builds the graph."""
    monitor, totals = Monitor(run, EVERY_TWO, StoppingSettings(max_updates=10)), Totals()
    for each in (report(1)._replace(seconds=60.0), report(2)):  # of 2 s
        totals += Totals.of(each)
        monitor.record(each, totals)
    monitor.close()
    assert ["left 16 s" in line for line in lines] == [False, True]
    assert "left" not in lines[0]


def test_seconds_make_a_log_point_too(run):
    settings = MonitoringSettings(log_every_updates=10**6, log_every_seconds=6.0)
    _train(run, [report(n) for n in range(1, 33)], settings=settings)
    steps = [step for step, _ in _curve(_events(run), "train/loss")]
    assert steps == [1, 2, 4, *range(7, 32, 3), 32]  # of 2 s each


def test_evaluations_samples_and_pictures(run):
    _train(run, [report(n) for n in range(1, 5)], evaluate_at=(2, 4))
    found = _events(run)
    assert _curve(found, "eval/bleu") == [(2, 2.0), (4, 4.0)]
    assert _curve(found, "eval/best_bleu") == [(2, 30.0), (4, 30.0)]
    assert _curve(found, "eval/ter") == [(2, 60.0), (4, 60.0)]
    assert _curve(found, "eval/cross_entropy") == [(2, 2.0), (4, 2.0)]
    (text,) = make_ndarray(found.Tensors("samples")[0].tensor_proto).reshape(-1)
    assert "Grüß Gott" in text.decode() and "你好" in text.decode()
    assert [event.step for event in found.Tensors("attention/1")] == [2, 4]
    assert "attention/2" not in found.Tags()["tensors"]  # --attention_pictures=1
    width, height, png = make_ndarray(found.Tensors("attention/1")[0].tensor_proto)
    picture = matplotlib.image.imread(io.BytesIO(png), format="png")
    assert picture.shape[:2] == (int(height), int(width))


def test_signatures_are_told_once_a_session_and_when_they_change(run, lines):
    monitor, scores = Monitor(run, EVERY_TWO, NO_LIMIT), evaluation().scores
    for update, signature in [(1, "of BLEU, 13a"), (2, "of BLEU, 13a"), (3, "of BLEU, zh")]:
        found = evaluation()._replace(scores=scores._replace(bleu_signature=signature))
        monitor.evaluated(found, Totals(updates=update), EarlyStopping())
    monitor.close()
    told = [line for line in lines if "signature" in line]
    once = ["  chrF signature: of chrF", "  TER signature: of TER"]
    assert told == ["  BLEU signature: of BLEU, 13a", *once, "  BLEU signature: of BLEU, zh", *once]
    texts = _events(run).Tensors("signatures")
    assert [event.step for event in texts] == [1, 3]
    html = _html(make_ndarray(texts[1].tensor_proto).reshape(-1)[0].decode())
    assert "<td><pre>BLEU</pre></td>\n<td>of BLEU, zh</td>" in html and "<td>of TER</td>" in html
    assert [record["bleu_signature"] for record in run.read_metrics()] == ["of BLEU, 13a"] * 2 + ["of BLEU, zh"]


def test_how_the_run_was_made(run):
    _train(run, [report(1)])
    found = _events(run)
    (text,) = make_ndarray(found.Tensors("configuration")[0].tensor_proto).reshape(-1)
    assert "123" in text.decode()
    assert "<td><pre>--log_every_updates</pre></td>\n<td>2</td>" in _html(text.decode())
    content = found.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    start = parse_session_start_info_plugin_data(content)
    assert start.group_name == "run"
    assert start.hparams["early_stopping_metric"].string_value == "bleu"
    assert "log_every_updates" not in start.hparams


def test_hosts_are_no_hyperparameters(run):
    monitor = Monitor(run, EVERY_TWO, NO_LIMIT)
    monitor.describe([ClusterSettings(workers=2, worker_hosts=("a:1", "b:1"))], {})
    monitor.record(report(1), Totals.of(report(1)))
    monitor.close()
    content = _events(run).SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    assert set(parse_session_start_info_plugin_data(content).hparams) == {"workers", "parameter_servers"}


def test_headings_come_in_the_order_of_their_weight_and_the_layout_knows_all_its_curves(run):
    """TensorBoard sorts headings by the alphabet."""
    pushes = (pushed(0), pushed(1))
    _train(run, [report(n, pushes=pushes) for n in range(1, 3)], evaluate_at=(2,))
    found = _events(run)
    tags = [tag for tag in found.Tags()["tensors"] if found.SummaryMetadata(tag).plugin_data.plugin_name == "scalars"]
    headings = sorted({tag.partition("/")[0] for tag in tags})
    assert headings == ["eval", "train", "train_progress", "train_speed", "workers", "workers_speed"]
    (content,) = make_ndarray(found.Tensors(CONFIG_SUMMARY_TAG)[0].tensor_proto).reshape(-1)
    layout = Layout.FromString(content)
    assert [category.title for category in layout.category] == list(LAYOUT)
    patterns = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    assert [pattern for pattern in patterns if not any(re.match(pattern, tag) for tag in tags)] == []
    assert not any(re.match("^train/los$", tag) for tag in tags)


def test_a_resumed_run_has_each_point_once(run):
    reports = [report(n, loss=100.0 * n) for n in range(1, 9)]
    _train(run, reports[:7], evaluate_at=(4, 6), close=False)  # killed after update 7; the last checkpoint is of 4
    again = [each._replace(loss=each.loss + 1000) for each in reports[4:]]
    _train(run, again, totals_of(reports[:4]), evaluate_at=(6, 8))
    found = _events(run)
    steps = [step for step, _ in _curve(found, "train/loss")]
    assert steps == [1, 2, 4, 5, 6, 8]
    assert dict(_curve(found, "train/loss"))[6] == pytest.approx(16.0)  # of the second time
    assert [step for step, _ in _curve(found, "eval/bleu")] == [4, 6, 8]
    assert dict(_curve(found, "train_progress/target_tokens"))[8] == 800
    records = [(record["kind"], record["update"]) for record in run.read_metrics()]
    assert len(set(records)) == len(records)
    assert [update for kind, update in records if kind == "training"] == steps
    assert [update for kind, update in records if kind == "validation"] == [4, 6, 8]


def test_event_files_without_the_start_of_a_session_would_double(run, monkeypatch):
    write = EventFile._write
    monkeypatch.setattr(EventFile, "_write", lambda *words: words[1].HasField("session_log") or write(*words))
    reports = [report(n) for n in range(1, 9)]
    _train(run, reports[:7])
    _train(run, reports[4:], totals_of(reports[:4]))
    steps = [step for step, _ in _curve(_events(run), "train/loss")]
    assert len(steps) > len(set(steps))


def test_sessions_within_one_second_keep_their_order(run):
    for update in range(12):
        EventFile(run.events, update).close()
    stamps = [int(path.name.split(".")[3]) for path in sorted(run.events.iterdir())]
    assert len(set(stamps)) == 12 and stamps == sorted(stamps)


def test_metrics_have_the_same_facts(run):
    _train(run, [report(1), report(2, loss=math.nan, skipped="step 9: encoder/0/query")], evaluate_at=(1,))
    training, validation, skipped = run.read_metrics()
    assert (training["kind"], training["update"], training["loss"]) == ("training", 1, 3.0)
    assert training["target_tokens_per_second"] == 50
    assert training["time"].endswith("+00:00")
    assert (validation["bleu"], validation["best_bleu"], validation["ter"]) == (1.0, 30.0, 60.0)
    assert validation["bleu_signature"] == "signature of BLEU"
    assert (validation["target_tokens"], validation["training_hours"]) == (100, 2.0 / 3600)
    assert (skipped["kind"], skipped["reason"]) == ("skipped", "step 9: encoder/0/query")
    assert all(json.loads(line) for line in run.metrics.read_text().splitlines())


def test_skipped_updates_are_counted_and_spoil_no_number(run):
    skipped = report(2, loss=math.nan, cross_entropy=math.nan, gradient_norm=math.nan, skipped="step 3: embedding")
    _train(run, [report(1), report(2), skipped, skipped, report(3), report(4)])
    found = _events(run)
    assert _curve(found, "train_progress/skipped_updates")[-1] == (4, 2.0)
    assert _curve(found, "train/loss")[-1] == (4, 3.0)


def test_time_that_is_lost_is_named_and_its_remedy_once(run, lines):
    """Not for the update that builds the graph, nor before fifty others."""
    settings = MonitoringSettings(log_every_updates=1000, log_every_seconds=1e9)
    build = pushed(0, seconds=1e6, wait_seconds=1e6)
    lost = [pushed(0, seconds=2.0, compute_seconds=0.8, push_seconds=1.0, wait_seconds=0.0)]
    reports = [report(1, pushes=(build,)), *(report(n, pushes=tuple(lost)) for n in range(2, 200))]
    _train(run, reports[:50], settings=settings, close=False)
    assert not any("Workers compute" in line for line in lines)
    _train(run, reports, settings=settings)
    (told,) = [line for line in lines if "Workers compute" in line]
    assert told.startswith("Workers compute for 40% of the time; pushes: 50%. ")
    assert "--local_steps" in told
    assert "pushes 50.0%" in lines[-1]
    assert run.read_metrics()[-1]["push_share"] == 0.5


def test_log_lines_of_a_run(run, lines):
    _train(run, [report(1), report(2, skipped="step 2: bias"), report(2)], evaluate_at=(2,))
    assert lines[0].startswith("update 1  epoch 1  loss 3.000  ppl 7.39  lr 0.001  50 tokens/s  grad 1")
    assert any(line.startswith("validation at update 2  BLEU 2.00  chrF 55.00") for line in lines)
    assert any("best BLEU 30" in line for line in lines)
    assert "  hypothesis: hello" in lines
    assert any("skipped 1" in line for line in lines)


def test_training_goes_on_when_the_disk_is_full(run, lines, monkeypatch):
    run.events.mkdir()
    (run.events / "full").symlink_to("/dev/full")
    monkeypatch.setattr(events, "_next_name", lambda directory: "full")
    monkeypatch.setattr(run, "append_metrics", lambda record: Path("/dev/full").write_bytes(b"{}"))
    totals = _train(run, [report(n) for n in range(1, 5)], evaluate_at=(2,))
    assert totals.updates == 4
    assert sum("cannot be written" in line and "No space left" in line for line in lines) == 1


def test_training_goes_on_when_events_cannot_be_written(run, lines):
    run.events.write_text("a file in the way")
    _train(run, [report(n) for n in range(1, 5)], evaluate_at=(2,))
    assert sum("cannot be written" in line for line in lines) == 1
    assert len(run.read_metrics()) == 4


def test_nothing_is_written_before_the_first_report(run):
    monitor = Monitor(run, EVERY_TWO, NO_LIMIT)
    monitor.describe([EVERY_TWO], {})
    monitor.close()
    assert not run.events.exists() and not run.metrics.exists()


def test_a_profile_of_some_updates(run):
    settings = MonitoringSettings(profile_updates="3-4")
    monitor, totals = Monitor(run, settings, NO_LIMIT), Totals()
    for number in range(1, 7):
        tf.linalg.matmul(tf.ones([8, 8]), tf.ones([8, 8]))
        totals += Totals.of(report(number))
        monitor.record(report(number), totals)
        assert monitor._profiler._running == (2 <= number < 4)
    monitor.close()
    assert list(run.events.glob("plugins/profile/*/*.xplane.pb"))


@pytest.mark.parametrize("text", ["abc", "5-", "-5", "9-3", "0-3", "1-3", "3,4"])
def test_a_profile_of_nonsense_is_refused(text):
    (fault,) = faults_of(MonitoringSettings(profile_updates=text))
    assert fault.startswith(f"--profile_updates={text}: ")
    assert not faults_of(MonitoringSettings(profile_updates="2-3"))
    assert not faults_of(MonitoringSettings())


def test_tables_show_text_as_it_is():
    cells = ["a | b <b>*x*</b>", "c_d_e [f](g) ![i](j)", "h `i` $j$ & \\k ~~l~~ # m", "two\nlines"]
    html = _html(markdown_table(("one", "two", "three", "four"), [cells]))
    assert html.count("<td>") == 4
    assert re.findall("<td>(.*?)</td>", html) == [f"<pre>{cells[0]}</pre>", *cells[1:3], "two lines"]


def test_a_picture_grows_with_the_sentence_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(samples, "LONGEST", 12)

    def size(pieces):
        weights = tf.fill([pieces, pieces], 1.0 / pieces).numpy()
        return matplotlib.image.imread(io.BytesIO(attention_picture(["▁x"] * pieces, ["y"] * pieces, weights))).shape

    assert size(2)[0] < size(12)[0]
    assert size(12) == size(40)
