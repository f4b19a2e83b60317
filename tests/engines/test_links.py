"""Fair shares of links in numbers that a person can check; neither a clock nor training."""

import math

import numpy as np
import pytest

from tfnmt.engines.links import PULL, PUSH, Links, fair_rates


def ends(links, begun, servers=1, size=1.0):
    """Key -> seconds at which its transfer of `size` bytes ends; `begun` are (seconds, key, worker, direction)."""
    found, todo = {}, sorted(begun)
    while todo or links.next_change() < math.inf:
        if todo and todo[0][0] < links.next_change():
            now, key, worker, direction = todo.pop(0)
            links.begin(now, key, worker, direction, [size / servers] * servers)
        else:
            now = links.next_change()
            found |= dict.fromkeys(links.advance(), now)
    return found


class TestFairRates:
    def test_flow_that_is_held_elsewhere_leaves_its_share_to_the_others(self):
        routes = np.array([[0, 3], [1, 3], [2, 3]])
        assert fair_rates(routes, np.array([1.0, 100.0, 100.0, 9.0])).tolist() == [1.0, 4.0, 4.0]

    @pytest.mark.parametrize("seed", range(20))
    def test_nobody_gets_more_without_taking_from_somebody_poorer(self, seed):
        """The definition: each flow crosses a full link on which no flow is faster; and no link is overfull."""
        random = np.random.default_rng(seed)
        routes = np.array([random.choice(6, 3, replace=False) for _ in range(9)])
        capacities = random.uniform(1, 10, 6)
        rates = fair_rates(routes, capacities)
        used = np.bincount(routes.ravel(), np.repeat(rates, 3), 6)
        assert np.all(used <= capacities * (1 + 1e-12))
        fastest = [rates[(routes == link).any(axis=1)].max(initial=0) for link in range(6)]
        for route, rate in zip(routes, rates):
            assert any(used[link] > capacities[link] * (1 - 1e-12) and rate >= fastest[link] for link in route)


class TestLinks:
    @pytest.mark.parametrize("direction", [PULL, PUSH])
    @pytest.mark.parametrize("servers, seconds", [(1, 4.0), (2, 2.0), (4, 1.0), (8, 1.0)])
    def test_workers_share_the_servers_and_each_has_its_own_link(self, direction, servers, seconds):
        """N M / B from one server, M / B from N or more."""
        found = ends(Links(4, servers, 10.0), [(0.0, n, n, direction) for n in range(4)], servers, size=10.0)
        assert found == pytest.approx(dict.fromkeys(range(4), seconds))

    def test_late_transfer_slows_the_first_down(self):
        """Alone for 2 of 4 seconds; the other half at half the speed; the late one is then alone for as long."""
        assert ends(Links(2, 1, 1.0), [(0.0, "a", 0, PULL), (2.0, "b", 1, PULL)], size=4.0) == {"a": 6.0, "b": 8.0}

    @pytest.mark.parametrize("pairs", [((0, PULL), (0, PUSH)), ((0, PULL), (1, PUSH))])
    def test_links_are_full_duplex(self, pairs):
        assert ends(Links(2, 1, 1.0), [(0.0, pair, *pair) for pair in pairs]) == dict.fromkeys(pairs, 1.0)

    def test_one_worker_shares_its_link_among_its_transfers(self):
        """With servers enough for both."""
        assert ends(Links(2, 4, 1.0), [(0.0, key, 0, PULL) for key in "ab"], servers=4) == {"a": 2.0, "b": 2.0}

    @pytest.mark.parametrize("switch, seconds", [(0.0, 1.0), (8.0, 1.0), (4.0, 2.0), (1.0, 8.0)])
    def test_switch_holds_both_directions_together(self, switch, seconds):
        links = Links(4, 4, 1.0, switch_bytes_per_second=switch)
        begun = [(0.0, (worker, direction), worker, direction) for worker in range(4) for direction in (PULL, PUSH)]
        assert set(ends(links, begun, servers=4).values()) == {seconds}

    def test_latency_comes_before_the_first_byte(self):
        """And takes nothing from the others: the late one is alone from 4 to 5, as the first one was from 1 to 2."""
        links = Links(2, 1, 1.0, latency_seconds=1.0)
        assert ends(links, [(0.0, "a", 0, PULL), (1.0, "b", 1, PULL)], size=2.0) == {"a": 4.0, "b": 5.0}

    def test_transfer_ends_with_its_last_flow(self):
        links = Links(1, 3, 4.0)
        links.begin(0.0, "a", 0, PULL, [3.0, 0.0, 5.0])
        assert (links.next_change(), links.advance()) == (1.5, [])  # 3 bytes from each, 2 bytes per second
        assert (links.next_change(), links.advance()) == (2.0, ["a"])
        assert links.next_change() == math.inf

    @pytest.mark.parametrize("servers", [1, 3])
    @pytest.mark.parametrize("direction", [PULL, PUSH])
    def test_bytes_are_conserved(self, servers, direction):
        """Links that never stand still have carried all bytes when they are done, whoever began when.

        Two large transfers keep the servers' links full for as long as others come and go.
        """
        random = np.random.default_rng(servers)
        links = Links(40, servers, 1.0)
        for number in range(2 * servers):
            links.begin(0.0, f"large {number}", 39 - number, direction, [100.0] * servers)
        begun = [(float(random.uniform(0, 50)), n, n, direction) for n in range(30)]
        found = ends(links, begun, servers, size=1.0)
        assert len(found) == 30 + 2 * servers
        assert max(found.values()) == pytest.approx((2 * servers * 100 * servers + 30) / servers, rel=1e-12)

    def test_equal_transfers_end_in_the_order_of_their_beginnings(self):
        links = Links(3, 1, 1.0)
        for worker in (2, 0, 1):
            links.begin(0.0, worker, worker, PULL, [0.1])
        assert links.advance() == [2, 0, 1]
