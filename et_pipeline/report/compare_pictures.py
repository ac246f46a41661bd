"""The pictures of `make compare`."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from et_pipeline.errors import UserError
from et_pipeline.report.comparison import ADAPTED, Comparison, Outcome, best, figures, method, recipe
from et_pipeline.report.figures import least_drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
_METHODS = {
    "fp32": "#000000",
    "8 bits": "#8c564b",
    "4 bits, weight-only": "#b8a500",
    "RTN": "#999999",
    "HQQ": "#e69f00",
    "GPTQ": "#d55e00",
    "AWQ": "#56b4e9",
    "AWQ + GPTQ": "#0072b2",
    "rotation": "#8fd6b8",
    "rotation + GPTQ": "#009e73",
    "SmoothQuant": "#cc79a7",
    "mixed 4 and 8 bits": "#7a4fbf",
    ADAPTED: "#e6007e",
}
_MARKERS = {32: ("o", "groups of 32"), 128: ("s", "groups of 128"), 0: ("^", "per channel")}
_PARTS = {
    "embedding": "#56b4e9",
    "attention": "#e69f00",
    "feed-forward": "#009e73",
    "head": "#cc79a7",
    "program": "#999999",
}
_NEAR = 1.35  # times the smallest size: what the second panel shows
_FAILED = "#b00020"
_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def pictures(comparison: Comparison) -> dict[str, bytes]:
    """Every picture as PNG, by file name.

    Raises:
        UserError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise UserError("matplotlib, which draws the report, is not installed; pip install 'et-pipeline[report]'")
    measured = comparison.measured
    drawn = {"quality.png": _quality(comparison), "parts.png": _parts(measured)}
    weights = {each.name: each.weight_errors for each in measured if each.weight_errors}
    if weights:
        drawn["weights.png"] = _heat_map(*_by_kind(weights), "‖W − Q‖ / ‖W‖")
    layers = {each.name: list(each.layer_errors) for each in measured if any(each.layer_errors)}
    if layers:
        most = max(map(len, layers.values()))  # where layers were dropped, the last columns are empty
        layers = {name: [*row, *[math.nan] * (most - len(row))] for name, row in layers.items()}
        columns = [str(number) for number in range(most)]
        drawn["layers.png"] = _heat_map(layers, columns, [], "‖ĥ − h‖ / ‖h‖ after each layer")
    return {name: _png(figure) for name, figure in drawn.items()}


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure without pyplot, which would want a display and keep every figure in memory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _quality(comparison: Comparison) -> Figure:
    """KL over size, with the front; in a second panel the smallest ones, if they are not all."""
    from matplotlib.ticker import NullFormatter

    measured = comparison.measured
    points = {each.name: figures(each) for each in measured}
    near = [each for each in measured if points[each.name].size <= _NEAR * points[measured[0].name].size]
    chosen = best(comparison)
    panels = [measured, near] if 2 < len(near) < len(measured) else [measured]
    figure, axes = _figure(7.2 * len(panels), 6.4, len(panels))
    floor = least_drawn(each.kl for each in points.values())
    used: dict[str, Any] = {}
    for axis, shown in zip(axes, panels, strict=True):
        names = {each.name for each in shown}
        line = [(points[name].size / 1e6, max(points[name].kl, floor)) for name in chosen if name in names]
        (used["Pareto front"],) = axis.plot(*zip(*line, strict=True), color="#444444", linewidth=1, zorder=1)
        for each in shown:
            settings = recipe(each)
            name, (marker, words) = method(each), _MARKERS.get(settings["group_size"], ("D", "other groups"))
            x, y = points[each.name].size / 1e6, max(points[each.name].kl, floor)
            style: dict[str, Any] = {"s": 62, "edgecolors": "white", "linewidths": 0.6, "zorder": 2}
            axis.scatter([x], [y], color=_METHODS.get(name, "#7f7f7f"), marker=marker, **style)
            used.setdefault(name, _dot(_METHODS.get(name, "#7f7f7f"), "o"))
            used.setdefault(words, _dot("white", marker))
            if points[each.name].failed:
                axis.scatter([x], [y], color=_FAILED, marker="x", s=110, linewidths=1.2, zorder=3)
                used.setdefault("failed its gate", _dot(_FAILED, "x"))
        for name in chosen:
            if name in names and (axis is axes[-1] or name not in {each.name for each in near}):
                at = (points[name].size / 1e6, max(points[name].kl, floor))
                high = points[name].kl > floor
                words = name if high else f"{name}: nearly 0, off the scale"
                where: dict[str, Any] = {"xytext": (7, 5)} if high else {"xytext": (-9, -3), "ha": "right"}
                axis.annotate(words, at, textcoords="offset points", fontsize=8.5, color="#222222", **where)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        low, top = axis.get_ylim()
        axis.yaxis.set_minor_formatter("{x:g}" if top < 30 * low else NullFormatter())
        axis.set_xlabel("program, MB")
        axis.set_ylabel("KL from the original, nats per token (less is better)")
        axis.margins(x=0.12, y=0.08)
        axis.grid(color="#e6e6e6", linewidth=0.6)
        axis.set_axisbelow(True)
    axes[0].set_title(f"{comparison.model}: every recipe", loc="left")
    if len(axes) > 1:
        axes[1].set_title("the smallest ones", loc="left")
    order = [name for name in (*_METHODS, *(words for _, words in _MARKERS.values())) if name in used]
    order += [name for name in used if name not in order]
    figure.legend([used[name] for name in order], order, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _dot(colour: str, marker: str) -> Any:
    from matplotlib.lines import Line2D

    edge = _FAILED if marker == "x" else "#444444"
    return Line2D([], [], linestyle="", marker=marker, color=colour, markeredgecolor=edge, markersize=8)


def _parts(measured: Sequence[Outcome]) -> Figure:
    """A bar per recipe, a colour per part; fp32, beside which the others would be slivers, only if it is alone."""
    measured = [each for each in measured if recipe(each)["scheme"] != "fp32"] or measured
    figure, (axis,) = _figure(10, 1.5 + 0.27 * len(measured))
    names = [each.name for each in measured]
    start = [0.0] * len(measured)
    for part, colour in _PARTS.items():
        wide = [each.parts.get(part, 0) / 1e6 for each in measured]
        axis.barh(names, wide, left=start, color=colour, label=part, height=0.74)
        start = [a + b for a, b in zip(start, wide, strict=True)]
    for row, total in enumerate(start):
        axis.annotate(f"{total:.2f}", (total, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.margins(y=0.01)
    axis.set_xlim(0, max(start) * 1.07)
    axis.set_xlabel("MB of the program")
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=len(_PARTS), frameon=False)
    return figure


def _by_kind(errors: Mapping[str, Mapping[str, float]]) -> tuple[dict[str, list[float]], list[str], list[int]]:
    """Put linears of one kind together: rows, the kind's name at its first column, and where kinds begin."""
    linears = max(map(list, errors.values()), key=len)  # some may have fewer layers
    kinds = [*_LINEARS, *(linear.split(".")[-1] for linear in linears)]
    linears.sort(key=lambda linear: kinds.index(linear.split(".")[-1]))
    names = [linear.split(".")[-1].removesuffix("_proj") for linear in linears]
    first = [at for at, name in enumerate(names) if at == 0 or names[at - 1] != name]
    columns = [name if at in first else "" for at, name in enumerate(names)]
    return {name: [found.get(linear, math.nan) for linear in linears] for name, found in errors.items()}, columns, first


def _heat_map(rows: Mapping[str, Sequence[float]], columns: Sequence[str], lines: Sequence[int], title: str) -> Figure:
    """Numbers as colours, the darker the larger, on a scale of tens."""
    from matplotlib.colors import LogNorm

    count = len(columns)
    figure, (axis,) = _figure(min(15.0, max(7.5, 3.6 + 0.28 * count)), 1.6 + 0.27 * len(rows))
    values = [value for row in rows.values() for value in row if value > 0]
    smallest = max(min(values), max(values) / 1e3)
    image = axis.imshow(
        [[max(value, smallest) for value in row] for row in rows.values()],
        aspect="auto",
        cmap="YlOrRd",
        norm=LogNorm(smallest, max(values)),
        interpolation="nearest",
    )
    shown = [at for at, name in enumerate(columns) if name]
    if not lines:  # every column has a name, and not all may fit
        shown = shown[:: max(1, count // 24)]
    axis.set_xticks(shown, [columns[at] for at in shown], fontsize=8.5)
    axis.set_yticks(range(len(rows)), list(rows), fontsize=8.5)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    for at in lines[1:]:
        axis.axvline(at - 0.5, color="white", linewidth=2)
    axis.set_title(title, loc="left", fontsize=10)
    steps = [smallest * (max(values) / smallest) ** (step / 4) for step in range(5)]
    bar = figure.colorbar(image, ax=axis, pad=0.015, ticks=steps, format=lambda value, _: f"{100 * value:.3g} %")
    bar.minorticks_off()
    return figure
