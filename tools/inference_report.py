"""The table and the picture of the inference study."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

_HEADING = ("model", "variant", "beam", "BLEU", "sentences/s", "latency, ms (median, 90%)", "MB")


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """All measurements in Markdown, the fastest first, and what the scores are; `*` where none is faster and better."""
    ordered = sorted(results, key=lambda result: -result["sentences_per_second"])
    rows = [_HEADING, ("---",) * len(_HEADING), *(_row(result, ordered) for result in ordered)]
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"{lines}\n" + "".join(sorted({_note(result) for result in results}))


def _note(result: Mapping[str, Any]) -> str:
    text = f"{result['sentences']:,} sentences of {result['source']}"
    return f"{text}, {result['cores']} cores, BLEU {result['signature']}\n"


def _row(result: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    mark = " *" if is_best(result, results) else ""
    latency = f"{1e3 * result['latency_seconds']:.1f}, {1e3 * result['slow_latency_seconds']:.1f}"
    speed = f"{result['sentences_per_second']:.4g}"
    size = f"{result['bytes'] / 1e6:.1f}"
    name = f"{result['model']}{mark}"
    return (name, result["variant"], str(result["beam_size"]), f"{result['bleu']:.2f}", speed, latency, size)


def is_best(result: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no other one is at least as good and faster, or as fast and better (Pareto)."""
    mine = (result["bleu"], result["sentences_per_second"])
    others = [(other["bleu"], other["sentences_per_second"]) for other in results]
    return not any(other != mine and other[0] >= mine[0] and other[1] >= mine[1] for other in others)


def picture(results: Sequence[Mapping[str, Any]]) -> Figure:
    """BLEU against sentences a second: a colour for each model, a marker for each variant, the beam beside it."""
    figure = Figure(figsize=(9, 6), dpi=100, layout="constrained")
    axes = figure.subplots()
    models, variants = (list(dict.fromkeys(result[name] for result in results)) for name in ("model", "variant"))
    for result in results:
        at = (result["sentences_per_second"], result["bleu"])
        colour = f"C{models.index(result['model']) % 10}"
        axes.plot(*at, marker="osD^vP*X"[variants.index(result["variant"]) % 8], color=colour, linestyle="none")
        axes.annotate(str(result["beam_size"]), at, xytext=(5, 4), textcoords="offset points", fontsize=8)
    best = sorted((result["sentences_per_second"], result["bleu"]) for result in results if is_best(result, results))
    axes.plot(*zip(*best), color="grey", linewidth=0.8, label="none faster and better")
    for number, model in enumerate(models):
        axes.plot([], [], marker="s", linestyle="none", color=f"C{number % 10}", label=model)
    for number, variant in enumerate(variants):
        axes.plot([], [], marker="osD^vP*X"[number % 8], linestyle="none", color="black", label=variant)
    axes.set(xscale="log", xlabel="sentences a second", ylabel="BLEU", title="beam sizes beside the points")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
