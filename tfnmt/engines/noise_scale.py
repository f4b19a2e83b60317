"""The gradient noise scale: how large a batch must be for its gradient to be more signal than noise.

With G the gradient of all data for each target token, and S the trace of the covariance of one token's gradient, the
mean gradient g of b tokens has E|g|² = |G|² + S / b. Batches of two sizes tell |G|² and S apart (McCandlish et al.,
2018, appendix A):

    |G|² = (B |g_B|² - b |g_b|²) / (B - b),   S = (|g_b|² - |g_B|²) / (1/b - 1/B),   B_noise = S / |G|²

Here the large batch is an update, and the small ones are the gradients of which it is made. They come as sums
s_i = n_i g_i over n_i tokens, not as many in each. With E|s_i|² = n_i² |G|² + n_i S and B = Σ n_i, the same follows:

    |G|² = (|Σ s_i|² - Σ|s_i|²) / (B² - Σ n_i²),   S = (Σ|s_i|² - |G|² Σ n_i²) / B
"""

import math
from typing import NamedTuple

_KEPT = 0.99  # of a moving average at each update: it remembers about a hundred
_LEAST_UPDATES = 10
_STANDARD_ERRORS = 3  # that |G|² must be above zero: a ratio to what may be nothing says nothing


class NoiseScale(NamedTuple):
    """Moving averages over the updates that have told something, none of them corrected for its beginning at zero.

    >>> noise = NoiseScale()
    >>> for _ in range(10):  # two gradients of 4 tokens, |g_b|² = 3 and |g_B|² = 2: |G|² = 1, S = 8
    ...     noise = noise.after(8.0, 2.0, 2 * 4.0**2, 2 * 3 * 4.0**2)
    >>> round(noise.tokens, 6)
    8.0
    """

    updates: int = 0
    signal: float = 0.0  # |G|²
    signal_square: float = 0.0  # the estimates of |G|², squared
    noise: float = 0.0  # S

    def after(self, tokens: float, mean_square: float, squared_tokens: float, squares: float) -> "NoiseScale":
        """The averages behind one more update; the same ones where it is made of a single gradient.

        Args:
          tokens: of the update, B.
          mean_square: |g_B|², of its mean gradient before clipping.
          squared_tokens: Σ n_i².
          squares: Σ|s_i|².
        """
        if tokens**2 <= squared_tokens:
            return self
        signal = (tokens**2 * mean_square - squares) / (tokens**2 - squared_tokens)
        noise = (squares - signal * squared_tokens) / tokens
        news = (signal, signal**2, noise)
        averages = [_KEPT * before + (1 - _KEPT) * now for before, now in zip(self[1:], news)]
        return NoiseScale(self.updates + 1, *averages)

    @property
    def tokens(self) -> float | None:
        """B_noise in target tokens, which is about the critical batch; None while |G|² may as well be nothing."""
        if self.updates < _LEAST_UPDATES:
            return None
        known = 1 - _KEPT**self.updates
        signal, signal_square = self.signal / known, self.signal_square / known
        # Weights w of an exponential average, Σw = 1: a mean of so few independent updates as 1 / Σw².
        share = (1 - _KEPT) / (1 + _KEPT) * (1 + _KEPT**self.updates) / known
        variance = max(signal_square - signal**2, 0.0) / (1 - share)
        if signal <= _STANDARD_ERRORS * math.sqrt(share * variance):
            return None
        return max(self.noise, 0.0) / self.signal
