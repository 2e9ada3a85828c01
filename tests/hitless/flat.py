"""Whether a measured value grows: a line through its samples, and how far it may rise. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: The first part of a run is not judged: caches and heaps reach their size.
WARM_UP_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Bound:
    """What a series may do. *growth*: by the line, over the whole run; *most*: at any time."""

    growth: float
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Trend:
    """What a series did."""

    name: str
    unit: str
    first: float
    last: float
    most: float
    per_minute: float
    #: By the line, from the first judged sample to the last.
    growth: float
    bound: Bound

    @property
    def flat(self) -> bool:
        """Whether it kept to its bound."""
        return self.growth <= self.bound.growth and (self.bound.most is None or self.most <= self.bound.most)


def trend(name: str, unit: str, samples: Sequence[tuple[float, float]], bound: Bound) -> Trend:
    """Fit a line to (seconds, value) by least squares, without the warm-up."""
    begin_s, end_s = samples[0][0], samples[-1][0]
    judged = [sample for sample in samples if sample[0] >= begin_s + WARM_UP_SHARE * (end_s - begin_s)]
    mean_s = sum(at_s for at_s, _ in judged) / len(judged)
    mean = sum(value for _, value in judged) / len(judged)
    spread = sum((at_s - mean_s) ** 2 for at_s, _ in judged)
    slope = sum((at_s - mean_s) * (value - mean) for at_s, value in judged) / spread if spread else 0.0
    return Trend(
        name,
        unit,
        judged[0][1],
        judged[-1][1],
        max(value for _, value in samples),
        60 * slope,
        slope * (judged[-1][0] - judged[0][0]),
        bound,
    )


def table(trends: Sequence[Trend]) -> str:
    """Markdown."""
    lines = ["| what | first | last | most | per minute | growth | bound | |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"]
    for each in trends:
        bound = f"{each.bound.growth:g}" + (f", at most {each.bound.most:g}" if each.bound.most is not None else "")
        lines.append(
            f"| {each.name} ({each.unit}) | {each.first:.6g} | {each.last:.6g} | {each.most:.6g} | "
            f"{each.per_minute:+.3g} | {each.growth:+.3g} | {bound} | {'flat' if each.flat else '**grows**'} |"
        )
    return "\n".join(lines)
