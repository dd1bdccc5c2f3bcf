"""Counts of batches that were never counted, predicted from their features by least squares."""

from __future__ import annotations

from typing import final

import numpy
from numpy.typing import NDArray

Vector = tuple[float, ...]


@final
class FeatureModel:
    """Counts predicted from features: of several linear models the one that predicts left-out counts best.

    Args:
        features: [counts, features]; the first column is 1.
        values: [counts, quantities].
        batches: [counts]: how many batches each stands for.
    """

    def __init__(
        self, features: NDArray[numpy.float64], values: NDArray[numpy.float64], batches: NDArray[numpy.int64]
    ) -> None:
        count, width = features.shape
        self._size = numpy.where((size := numpy.abs(values).max(axis=0)) > 0, size, 1.0)
        self._extent = numpy.where((extent := numpy.abs(features).max(axis=0)) > 0, extent, 1.0)
        values, features = values / self._size, features / self._extent
        self._known = features, values
        mean = (batches @ values) / batches.sum()
        scatter = (batches @ (values - mean) ** 2) / batches.sum() * count / max(1, count - 1)
        # From one or two counts it is unknown how much the next one differs: as much as it is itself.
        self._variance = scatter if count > 2 else numpy.maximum(scatter, mean**2)
        self._degrees = float(max(1, count - 1))
        self._columns, self._weights, self._inverse = [0], mean[None, :], numpy.array([[1.0 / count]])
        left_out = scatter.sum()
        subsets = [[1], [0, width - 1], [0, 1], [0, 1, width - 1], [0, 1, 2], list(range(width))]
        for columns in subsets if width > 1 else []:
            chosen = features[:, columns]
            rank = int(numpy.linalg.matrix_rank(chosen))
            if count - rank < 2:
                continue
            pseudo = numpy.linalg.pinv(chosen)
            leverage = (chosen * pseudo.T).sum(axis=1)
            if (leverage > 1 - 1e-9).any():
                continue
            weights = pseudo @ values
            errors = (values - chosen @ weights) / (1 - leverage)[:, None]
            press = (errors**2).mean(axis=0)
            if press.sum() < 0.98 * left_out:
                left_out = press.sum()
                self._columns, self._weights, self._inverse = columns, weights, pseudo @ pseudo.T
                self._variance, self._degrees = press, float(count - rank)

    def total(self, features: NDArray[numpy.float64], quantity: int) -> float:
        """Predicted total of batches whose features add up to these."""
        chosen = (features / self._extent)[self._columns]
        return float(chosen @ self._weights[:, quantity] * self._size[quantity])

    def beyond(self, features: Vector, quantity: int) -> float:
        """How far a batch that lies outside the counted ones may be off: as far as it is from the nearest of those.

        If they are alike in a feature, they do not say what it is worth: the batch may be in proportion to it.
        """
        one = numpy.array(features) / self._extent
        known, values = self._known
        if ((known.min(axis=0) <= one) & (one <= known.max(axis=0))).all():
            return 0.0
        place = ((known - one) ** 2).sum(axis=1).argmin()
        nearest = float(values[place, quantity] * self._size[quantity])
        alike = (known.min(axis=0) == known.max(axis=0)) & (known[place] != 0)
        off = max((abs(ratio - 1) for ratio in one[alike] / known[place][alike]), default=0.0)
        return max(abs(self.total(numpy.array(features), quantity) - nearest), float(off) * nearest)

    def variance(self, features: NDArray[numpy.float64], quantity: int, squares: float) -> tuple[float, float]:
        """Variance of that total, and its degrees of freedom: batches of one stratum err together."""
        chosen = (features / self._extent)[self._columns]
        of_one = float(self._variance[quantity]) * float(self._size[quantity]) ** 2
        return of_one * (squares + float(chosen @ self._inverse @ chosen)), self._degrees
