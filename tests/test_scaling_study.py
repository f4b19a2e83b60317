"""The arithmetic of the scaling study: prices without training, crossings of a target, halving, the order of cells."""

import dataclasses
import itertools
import json
import math
import shutil

import pytest

from tests import toy
from tests.engines.building import run, simulated
from tfnmt.batch import token_count
from tfnmt.data.settings import DataSettings
from tfnmt.engines.virtual_time import RING, STAR, Costs, CostSettings
from tfnmt.layout import Layout
from tfnmt.models.registry import ModelChoice
from tfnmt.models.transformer_parameters import TransformerSettings
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.planning.goal import critical_batch
from tfnmt.strategies import Async, Bmuf, ModelAverage, SummedAsync, Sync
from tools.repricing import update_seconds
from tools.scaling import BASELINE, CELLS, CHOICES, needed
from tools.trials import Laboratory, Trial
from tools.tuning import crossing, halve

BATCHES = toy.make_batches(24)
WORKERS, SERVERS, UPDATES = 3, 2, 3
SLOW = {"network_bytes_per_second": 2e4, "jitter": 0.3, "slow_jitter": 0.2, "seconds_per_token": 0.01}


def read_tokens(steps=8):
    """[WORKERS][steps], what the toy's readers give to each worker."""
    readers = (toy.dataset(BATCHES)(None, worker, WORKERS) for worker in range(WORKERS))
    return [[int(token_count(batch.target_ids)) for batch in itertools.islice(reader, steps)] for reader in readers]


def simulated_times(row, costs):
    reports = run(simulated(row, BATCHES, workers=WORKERS, servers=SERVERS, costs=costs, optimizer="adam"), UPDATES)
    return list(itertools.accumulate(report.seconds for report in reports))


def priced_times(row, settings, tokens):
    vector_bytes = Layout(toy.ToyModel.parameters, SERVERS).size * 8
    costs = Costs(settings, 1, WORKERS, SERVERS, vector_bytes, is_ring=settings.network == RING)
    return update_seconds(costs, row.row(WORKERS, OptimizerSettings()), tokens, UPDATES)


class TestRepricing:
    @pytest.mark.parametrize("network", [STAR, RING])
    @pytest.mark.parametrize("row", [Sync(), Bmuf(local_steps=2, local_slots="average")])
    def test_prices_are_the_times_of_the_simulated_engine(self, row, network):
        """And not if the workers' readers are exchanged."""
        settings = CostSettings(network=network, meeting_seconds=0.05, server_seconds_per_byte=1e-4, **SLOW)
        expected, tokens = simulated_times(row, settings), read_tokens()
        assert priced_times(row, settings, tokens) == pytest.approx(expected, rel=1e-12)
        assert priced_times(row, settings, tokens[::-1]) != pytest.approx(expected, rel=1e-3)

    @pytest.mark.parametrize("row", [Async(), SummedAsync()])
    def test_rows_whose_updates_depend_on_the_network_are_refused(self, row):
        with pytest.raises(ValueError, match="cannot be priced without its training"):
            priced_times(row, CostSettings(), read_tokens())

    def test_there_must_be_tokens_for_every_step(self):
        with pytest.raises(ValueError, match="3 updates take 6 steps"):
            priced_times(ModelAverage(local_steps=2), CostSettings(), read_tokens(5))


def laboratory(directory, corpus):
    model = TransformerSettings(width=8, encoder_layers=1, decoder_layers=1, feed_forward_width=8, heads=1)
    data = DataSettings(data=str(corpus), batch_positions=64, max_length=32)
    limits = {"warmup_tokens": 200, "most_tokens": 4000, "transfer_share": 0.1}
    return Laboratory(directory, data, ModelChoice(), model, **limits)


class TestLaboratory:
    TRIAL = Trial("model_average", 2, 0.01, "none", (("local_steps", 2),))

    def test_a_trial_that_was_left_goes_on(self, corpus, tmp_path):
        """In another process, which has only the files: the curve is that of a trial that was never left."""
        whole = laboratory(tmp_path / "whole", corpus)
        whole.train(self.TRIAL, 500, 250)
        shutil.copytree(tmp_path / "whole", tmp_path / "parts")
        curve = whole.train(self.TRIAL, 1000, 250)
        assert laboratory(tmp_path / "parts", corpus).train(self.TRIAL, 1000, 250) == curve
        assert [point.tokens // 250 for point in curve] == [0, 1, 2, 3, 4]
        assert curve[-1].cross_entropy < curve[0].cross_entropy

    def test_what_another_directory_knows_is_not_trained_again(self, corpus, tmp_path):
        there, here = laboratory(tmp_path / "there", corpus), laboratory(tmp_path / "here", corpus)
        text = json.dumps({"trial": dataclasses.asdict(self.TRIAL), "curve": points(8.0, 7.0)})
        (tmp_path / "there" / f"{self.TRIAL.name}.json").write_text(text)
        (tmp_path / "there" / "tokens.2.seed1.json").write_text("[]")
        here.take_over(there.records())
        assert here.records() == {self.TRIAL.name: json.loads(text)}
        assert here.train(self.TRIAL, 100, 50) == there.curve(self.TRIAL)
        here.take_over({self.TRIAL.name: {"curve": []}})  # what is there stays
        assert len(here.curve(self.TRIAL)) == 2


def points(*cross_entropies):
    return [
        {"tokens": 100 * number, "updates": 10 * number, "seconds": 2.0 * number, "cross_entropy": value}
        for number, value in enumerate(cross_entropies)
    ]


class TestCrossing:
    def test_it_is_on_the_line_between_two_evaluations(self):
        assert crossing(points(8.0, 6.0, 5.0), 5.25) == (175.0, 17.5, 3.5)

    def test_the_first_of_several_counts(self):
        assert crossing(points(8.0, 4.0, 6.0, 4.0), 5.0).tokens == 75.0

    def test_an_evaluation_at_the_target_is_a_crossing(self):
        assert crossing(points(8.0, 6.0), 6.0).tokens == 100.0

    def test_there_is_none_above_the_target(self):
        assert crossing(points(8.0, 6.0), 5.0) is None


class TestHalving:
    def test_the_better_half_goes_on(self):
        asked = []

        def loss(config, rung):
            asked.append((config, rung))
            return {"a": 3.0, "b": 1.0, "c": 2.0, "d": math.nan}[config] - (rung == 0.5 and config == "c")

        best, history = halve("abcd", (0.2, 0.5), loss)
        assert asked == [("a", 0.2), ("b", 0.2), ("c", 0.2), ("d", 0.2), ("b", 0.5), ("c", 0.5)]
        assert best == "b"
        assert [[config for config, _ in rung] for rung in history] == [["b", "c", "a", "d"], ["b", "c"]]

    def test_a_later_rung_may_turn_the_order(self):
        best, _ = halve("abc", (1, 2), lambda config, rung: {"a": rung, "b": 1.5, "c": 9}[config])
        assert best == "b"

    def test_what_is_not_a_number_never_wins(self):
        assert halve("ab", (1,), lambda config, rung: math.nan if config == "a" else 9.0)[0] == "b"


class TestCriticalBatch:
    def test_it_is_that_of_the_law(self):
        ratio = (1 + 16 * 55 / 700) / (1 + 55 / 700)
        assert critical_batch(55, 16, ratio) == pytest.approx(700)

    @pytest.mark.parametrize("ratio", [0.9, 1.0, 16.0, 20.0])
    def test_outside_of_the_law_there_is_none(self, ratio):
        assert critical_batch(55, 16, ratio) is None


def test_every_cell_waits_for_what_it_needs():
    done = set()
    for cell in CELLS:
        assert needed(cell, 1) <= done
        done.add((cell, 1))
    assert needed(("bmuf", 8), 1) == {(BASELINE, 1), (("model_average", 8), 1)}
    assert needed(BASELINE, 2) == {(BASELINE, 1)}


def test_every_row_is_tuned_with_the_same_effort():
    assert {len(choice.rates) for choice in CHOICES.values()} == {4}
    assert all(len(choice.flags) == 4 for choice in CHOICES.values())
