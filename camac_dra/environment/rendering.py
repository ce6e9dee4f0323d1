"""Pictures of one copy's last step: a table for the terminal, and an image drawn without a display.

N agents, R resources, K capacity groups.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np

from camac_dra.environment.vector_api import StepResult
from camac_dra.environment.vector_environment import VectorEnvironment

_MOST_AGENTS = 20
_MOST_GROUPS = 10
_BAR = 30  # characters for the whole capacity
_CELL = 8
_COLUMNS = ("demand", "request", "grant", "backlog")


def table(
    env: VectorEnvironment,
    result: StepResult | None,
    width: int | None = None,
    most_agents: int = _MOST_AGENTS,
) -> str:
    """Return the last step of the first copy as text.

    A header with step and prices; a row per agent (the first `most_agents`, then how many more, then the sum)
    with demand, request, grant and backlog of each resource, in the resources' own units, resources side by
    side as far as `width` (None: that of the terminal) allows; a bar per capacity group and resource. Without
    a `result` (before the first step) requests and grants are blank.
    """
    width = width or shutil.get_terminal_size().columns
    started = hasattr(env, "state")
    time = env.state.time if started else 0
    lines = [f"step {time} of {env.episode_length}, mechanism {env.mechanism}, contention {env.contention:g}"]
    if started:
        price = env.state.draw.price[0] if result is None else result.info["price"][0]  # (R,)
        named = zip(env.resource_ids, price, strict=True)
        lines.append("price " + ", ".join(f"{name} {value:.3g}" for name, value in named))
        lines += _agent_lines(env, result, width, most_agents)
    lines += _group_lines(env, result)
    return "\n".join(lines) + "\n"


def _cells(env: VectorEnvironment, result: StepResult | None) -> np.ndarray:
    """Return demand, request, grant and backlog (N, R, 4), NaN where there was no step yet."""
    if result is None:
        blank = np.full_like(env.state.pending[0], np.nan)
        return np.stack([env.state.pending[0], blank, blank, env.state.backlog[0]], axis=-1)
    names = ("pending", "requests", "grants", "backlog")
    return np.stack([result.info[name][0] for name in names], axis=-1)


def _agent_lines(
    env: VectorEnvironment, result: StepResult | None, width: int, most_agents: int
) -> Iterator[str]:
    cells = _cells(env, result)  # (N, R, 4)
    active = env.present[0] if result is None else result.active[0]  # (N,)
    shown = min(most_agents, env.num_agents)
    names = [agent if here else f"({agent})" for agent, here in zip(env.agent_ids, active, strict=True)]
    margin = max(map(len, [*names[:shown], "all agents"])) + 1
    block = 1 + len(_COLUMNS) * _CELL
    side_by_side = max(1, (width - margin) // block)
    for first in range(0, env.num_resources, side_by_side):
        part = slice(first, first + side_by_side)
        yield ""
        yield " " * margin + "".join(f" {name[: block - 2]:^{block - 1}}" for name in env.resource_ids[part])
        header = "".join(f"{name:>{_CELL}}" for name in _COLUMNS)
        yield " " * margin + f" {header}" * len(env.resource_ids[part])
        for agent in range(shown):
            yield _row(names[agent], cells[agent, part], margin)
        if shown < env.num_agents:
            yield f"... and {env.num_agents - shown} more agents"
        if env.num_agents > 1:
            yield _row("all agents", cells[:, part].sum(axis=0), margin)
    if not active.all():
        yield "(in brackets: absent)"


def _row(name: str, amounts: np.ndarray, margin: int) -> str:
    """Return one line of amounts (R', 4)."""
    blocks = (" " + "".join(f"{short(value):>{_CELL}}" for value in amount) for amount in amounts)
    return f"{name:<{margin}}" + "".join(blocks)


def _group_lines(env: VectorEnvironment, result: StepResult | None) -> Iterator[str]:
    """Draw a bar for each group and resource that binds: granted as #, asked for but not granted as +."""
    grants = np.zeros((1, env.num_agents, env.num_resources)) if result is None else result.info["grants"]
    load = (
        np.zeros((env.num_groups, env.num_resources)) if result is None else result.info["load"][0]
    )  # (K, R)
    source = result.info["capacity"] if result is not None else None
    if source is None:
        source = env.state.draw.capacity if hasattr(env, "state") else env.constraints.capacity[None]
    capacity = source[0]  # (K, R)
    granted = env.constraints.groups.load(grants)[0] / np.maximum(capacity, 1e-12)  # (K, R)
    names = env.constraints.group_names
    margin = max(map(len, names))
    wide = max(map(len, env.resource_ids))
    yield ""
    yield f"granted # and asked for + of each capacity ({_BAR} characters), > where more was asked for"
    fullest = np.argsort(-load.max(axis=1), kind="stable")[:_MOST_GROUPS]
    for group in sorted(fullest.tolist()):
        for resource in np.flatnonzero(np.isfinite(capacity[group])).tolist():
            yield (
                f"{names[group]:<{margin}} {env.resource_ids[resource]:<{wide}} "
                f"{_bar(granted[group, resource], load[group, resource])} "
                f"{granted[group, resource]:4.0%} granted, {load[group, resource]:4.0%} asked"
                f" of {short(capacity[group, resource])}"
            )
    if env.num_groups > len(fullest):
        yield f"... and {env.num_groups - len(fullest)} more groups, less loaded"


def _bar(granted: float, asked: float) -> str:
    """Return a bar of both shares of a capacity."""
    full = round(min(granted, 1.0) * _BAR)
    wanted = max(round(min(asked, 1.0) * _BAR) - full, 0)
    return f"[{'#' * full}{'+' * wanted}{'.' * (_BAR - full - wanted)}]{'>' if asked > 1.0 + 1e-9 else ' '}"


def short(value: float) -> str:
    """Return `value` in at most seven characters: three significant digits and k, M, G or T; - for NaN."""
    if not np.isfinite(value):
        return "-" if np.isnan(value) else "inf"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.0f}"


def frame(
    env: VectorEnvironment, result: StepResult | None, height: int = 480, width: int = 800
) -> np.ndarray:
    """Return the last step of the first copy as a picture (height, width, 3) uint8, drawn without a display.

    Left: load (outline) and grants (filled) of each group and resource as shares of the capacity. Right: what
    waits, in fair shares, and which share of the request was granted, agents by resources.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dots = 100
    figure = Figure(figsize=(width / dots, height / dots), dpi=dots, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    bars, waiting, granting = figure.subplots(1, 3, width_ratios=[1.6, 1, 1])
    _draw_bars(bars, env, result)
    if hasattr(env, "state"):
        _draw_agents(waiting, granting, env, result)
        figure.suptitle(f"step {env.state.time} of {env.episode_length}")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _draw_bars(axes, env: VectorEnvironment, result: StepResult | None) -> None:  # type: ignore[no-untyped-def]
    shape = (env.num_groups, env.num_resources)
    load = np.zeros(shape) if result is None else result.info["load"][0]  # (K, R)
    granted = np.zeros(shape)  # (K, R)
    if result is not None:
        capacity = result.info["capacity"][0]
        granted = env.constraints.groups.load(result.info["grants"])[0] / np.maximum(capacity, 1e-12)
    fullest = np.sort(np.argsort(-load.max(axis=1), kind="stable")[:_MOST_GROUPS])
    slot = 0.8 / len(fullest)
    for number, group in enumerate(fullest.tolist()):
        where = np.arange(env.num_resources) - 0.4 + slot * (number + 0.5)
        axes.bar(where, load[group], slot, fill=False, edgecolor="tab:red")
        axes.bar(where, granted[group], slot, color="tab:blue")
    axes.axhline(1.0, color="black", linewidth=1)
    axes.set_xticks(range(env.num_resources), env.resource_ids, rotation=45, ha="right", fontsize=7)
    axes.set_ylim(0.0, max(1.1, 1.05 * float(load.max(initial=0.0))))
    axes.set_title("granted (blue), asked (red) / capacity", fontsize=8)


def _draw_agents(waiting, granting, env: VectorEnvironment, result: StepResult | None) -> None:  # type: ignore[no-untyped-def]
    cells = np.nan_to_num(_cells(env, result))  # (N, R, 4)
    backlog = cells[..., 3] / env.constraints.fair_share
    share = np.divide(cells[..., 2], cells[..., 1], out=np.ones_like(backlog), where=cells[..., 1] > 0.0)
    limit = env.config.backlog_limit
    for axes, values, highest, title in (
        (waiting, backlog, limit or max(1.0, float(backlog.max())), "backlog, fair shares"),
        (granting, share, 1.0, "granted / requested"),
    ):
        image = axes.imshow(
            values, aspect="auto", vmin=0.0, vmax=highest, cmap="viridis", interpolation="nearest"
        )
        axes.figure.colorbar(image, ax=axes)
        axes.set_xticks(range(env.num_resources), env.resource_ids, rotation=45, ha="right", fontsize=7)
        axes.set_title(title, fontsize=8)
        axes.set_ylabel("agent", fontsize=7)
