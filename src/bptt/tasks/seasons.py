"""The seasons of a series: those of its calendar that its values bear out, or the lag at which it repeats itself."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bptt.errors import InputError
from bptt.tasks.spacing import Spacing

OF_CALENDAR, OF_ANY = 0.6, 1.4  # how sure a season of the calendar must be, and one of many lags
CLEARLY = 0.75  # what is left by a season that explains clearly more


def find(
    targets: Sequence[np.ndarray], given: int | tuple[int, ...] | None, spacing: Spacing
) -> tuple[int | None, list[int], str]:
    """The season of targets (N_k), or None; further seasons; and the reason.

    Those of the calendar come first, else lags at which the targets resemble themselves clearly. Of several, the season
    is the one whose value a season before is clearly the nearest.
    """
    n = max(map(len, targets))
    if given is not None:
        season, *further = given if isinstance(given, tuple) else (given,)
        if (longest := max(season, *further, 0)) > n // 2:
            raise InputError(
                f"A season must fit twice into the training part; --season {longest} does not into its {n:,} steps. "
                "Give a longer series or leave --season out."
            )
        return season, further, f"as given{_beside(further)}"
    columns = [_without_line(column) for column in targets]
    found: list[float] = []
    left = columns
    for season in spacing.seasons:
        if round(season) <= n // 2 and _Likeness(left, season).sure(season) > OF_CALENDAR:
            found.append(season)
            left = [_without_season(column, round(season)) for column in left]
            if all(_mean(rest**2) < 1e-6 * _mean(y**2) for rest, y in zip(left, columns, strict=True)):
                break
    if found:
        best = _nearest(columns, found)
        further = [season for season in found if season != best]
        return round(best), _in_phase(further, found), f"the calendar's, {_at(columns, best)}{_beside(further)}"
    lags = _lags(columns, n)
    if not lags:
        return None, [], "the training part does not repeat itself"
    best = _nearest(columns, lags)
    further = [lag for lag in lags if lag != best]
    return best, further, f"{_at(columns, best)}{_beside(further)}"


def _nearest(columns: Sequence[np.ndarray], seasons: Sequence[Any]) -> Any:
    """The season whose value a season before is clearly the nearest, or else the shortest."""
    best, *others = seasons
    for season in others:
        r = _Likeness(columns, season).r
        if 1 - r[round(season)] < CLEARLY * (1 - r[round(best)]):
            best = season
    return best


def _beside(further: Sequence[float]) -> str:
    return f"; further seasons: {' and '.join(f'{season:,.7g}' for season in further)} steps" if further else ""


def _lags(columns: Sequence[np.ndarray], n: int) -> list[int]:
    """The lags at which columns repeat themselves, the likeliest of 2 to 4 steps, of 5 to 8, of 9 to 16, and so on: the
    shortest that explains the columns, or several that leave clearly less, each clearly less than the ones before; of
    several that take less than one long one together, it is enough that they do not leave clearly more.
    """
    one, several, left, longest = None, [], columns, 4
    while longest // 2 < n // 3:
        within = range(2 if longest == 4 else longest // 2 + 1, min(longest, n // 3) + 1)
        lag, sure = _likeliest(columns, within, n)
        if sure > OF_ANY and (one is None or _explains(columns, one, lag)):
            one = lag
        if several:
            lag, sure = _likeliest(left, within, n)
        if sure > OF_ANY and _unexplained(left, [lag]) < CLEARLY * _unexplained(left, []):
            several.append(lag)
            left = [_without_season(column, lag) for column in left]
        longest *= 2
    if one is None:
        return []
    enough = 1 / CLEARLY if sum(several) < one else CLEARLY
    less = _unexplained(columns, several) < enough * _unexplained(columns, [one])
    return several if several and less else [one]


def _likeliest(columns: Sequence[np.ndarray], lags: range, n: int) -> tuple[int, float]:
    """The likeliest of some lags, and how sure it is."""
    lag = max(lags, key=_Likeness(columns, lags[-1]).sure)
    near = range(max(2, lag - lag // 10), min(lag + lag // 10, n // 3) + 1)
    lag = max(near, key=_Likeness(columns, lag).of)
    return lag, _Likeness(columns, lag).sure(lag)


def _unexplained(columns: Sequence[np.ndarray], seasons: Sequence[int]) -> float:
    """The mean square that is left without the means of the seasons' places, for each degree of freedom."""
    total = 0.0
    for y in columns:
        rest, known = y, int((~np.isnan(y)).sum())
        for season in seasons:
            rest = _without_season(rest, season)
        total += _mean(rest**2) * known / max(known - sum(seasons), 1)
    return total


def _in_phase(further: Sequence[float], found: Sequence[float]) -> list[int]:
    """Further seasons in whole steps: as many of the longest shorter season that was found as come nearest."""
    whole = []
    for season in further:
        shorter = round(max((other for other in found if other < season), default=1))
        whole.append(round(season / shorter) * shorter)
    return whole


class _Likeness:
    """How alike columns are to themselves some steps later: their mean autocorrelation, over pairs of known values. Its
    estimate divides by the number of pairs at each lag and by the variance of all; where that of few pairs leaves
    [-1, 1], the nearer end stands for it.

    The mean of the season around each step is taken away first: of a drift, no lag would be the best. At both ends the
    columns are taken to go on as one season before or after, in the direction that they have there.
    """

    def __init__(self, columns: Sequence[np.ndarray], season: float) -> None:
        season, longest = round(season), max(map(len, columns))
        half, self.r, self.pairs, counts = season // 2, np.zeros(longest), np.zeros(longest), np.zeros(longest)
        for y in columns:
            n = len(y)
            if n < 2 * season:
                continue
            before, after = (_mean(y[at : at + season]) - _mean(y[at - season : at]) for at in (season, n - season))
            longer = np.concatenate((y[season - half : season] - before, y, y[n - season : n - season + half] + after))
            around = _sums(np.nan_to_num(longer), season) / np.maximum(_sums(~np.isnan(longer), season), 1)
            left = y - around
            known = ~np.isnan(left)
            pairs = np.maximum(_products(known.astype(float)), 1)
            covariance = _products(np.where(known, left - _mean(left), 0)) / pairs
            self.r[:n] += covariance / max(covariance[0], 1e-300)
            self.pairs[:n] += pairs
            counts[:n] += 1
        self.r = (self.r / counts.clip(1)).clip(-1, 1)
        self.pairs = (self.pairs / counts.clip(1)).clip(1)
        self._chance = 1 + 2 * np.append(0, (self.r[1:] ** 2).cumsum())

    def of(self, season: float) -> float:
        """The autocorrelation at a season and its multiples."""
        at = self._multiples(season)
        return float((self.r[at] * self.pairs[at]).sum() / self.pairs[at].sum())

    def sure(self, season: float) -> float:
        """The same times its multiple of what chance would make of values that resemble their neighbours so."""
        chance = self._chance[max(1, int(season / 2) - 1)] / self.pairs[self._multiples(season)].sum()
        return max(self.of(season), 0) ** 2 / math.sqrt(chance)

    def _multiples(self, season: float) -> np.ndarray:
        many = np.arange(1, int((len(self.r) - 1) / season) + 1)
        return np.rint(many * season).astype(int)


def _explains(columns: Sequence[np.ndarray], season: float, longer: float) -> bool:
    """Whether a longer season explains clearly more."""
    like = _Likeness(columns, longer)
    less, more = like.of(season), like.of(longer)
    chance = 3 / math.sqrt(like.pairs[like._multiples(longer)].sum())
    return more > less + chance and 1 - more < CLEARLY * (1 - less)


def _at(columns: Sequence[np.ndarray], season: float) -> str:
    return f"autocorrelation {_Likeness(columns, season).of(season):.2f} in the training part"


def _without_line(y: np.ndarray) -> np.ndarray:
    place, known = np.arange(len(y)), ~np.isnan(y)
    return y - np.polyval(np.polyfit(place[known], y[known], 1), place)


def _without_season(y: np.ndarray, season: int) -> np.ndarray:
    """y without the mean of each of the season's places."""
    known, place = ~np.isnan(y), np.arange(len(y)) % season
    sums = np.bincount(place[known], y[known], season)
    return y - (sums / np.maximum(np.bincount(place[known], minlength=season), 1))[place]


def _mean(y: np.ndarray) -> float:
    known = y[~np.isnan(y)]
    return float(known.mean()) if len(known) else 0.0


def _sums(y: np.ndarray, width: int) -> np.ndarray:
    """The sum around each place, whose ends count half where the width is even."""
    total = np.append(0, y.cumsum(dtype=float))
    sums = total[width:] - total[:-width]
    return sums if width % 2 else (sums[1:] + sums[:-1]) / 2


def _products(y: np.ndarray) -> np.ndarray:
    """The sum of the products of values at each distance (N)."""
    size = 2 ** (2 * len(y) - 1).bit_length()
    spectrum = np.fft.rfft(y, size)
    return np.fft.irfft(spectrum * spectrum.conj(), size)[: len(y)]
