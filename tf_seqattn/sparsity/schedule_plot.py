"""Pictures of schedules and masks."""

import enum
from typing import Any, Protocol

import numpy as np

# Colour-blind safe (Okabe and Ito), pale enough to shade a background.
PHASE_COLOURS = {0: "#56B4E9", 1: "#E69F00", 2: "#009E73"}


class DrawnSchedule(Protocol):
    """What a drawing needs to know of a schedule of tf_seqattn."""

    def sparsity(self, step: int) -> float:
        """Returns the share of blocks removed at `step`."""

    def phase(self, step: int) -> enum.IntEnum:
        """Returns the phase of `step`."""

    def next_phase_change(self, step: int) -> float:
        """Returns the first step after `step` of another phase, or infinity."""


def _last_change(schedule: DrawnSchedule) -> int:
    step, last = 0, 0
    while (change := schedule.next_phase_change(step)) != float("inf"):
        step = last = int(change)
    return last


def _require_matplotlib() -> None:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Pictures of schedules need matplotlib: pip install 'tf-seqattn[plots]'"
        ) from error


def shade_phases(axes: Any, schedule: DrawnSchedule, steps: int) -> list[Any]:
    """Shades the phases of a schedule behind a plot over training steps.

    Args:
      axes: matplotlib axes.
      schedule: as for `plot_schedule`.
      steps: where to end.

    Returns:
      A matplotlib patch for each phase, in their order, for a legend.
    """
    from matplotlib.patches import Patch

    start = 0
    present: dict[Any, Any] = {}
    while start < steps:
        phase = schedule.phase(start)
        end = int(min(schedule.next_phase_change(start), steps))
        colour = PHASE_COLOURS[int(phase)]
        axes.axvspan(start, end, color=colour, alpha=0.25, linewidth=0)
        present[phase] = Patch(color=colour, alpha=0.4, label=phase.name.lower())
        start = end
    return [present[phase] for phase in sorted(present)]


def plot_schedule(
    schedule: DrawnSchedule, axes: Any = None, steps: int | None = None
) -> Any:
    """Draws sparsity against training step, phases shaded (the paper's figure 2).

    Args:
      schedule: a schedule of tf_seqattn with `sparsity(step)` and `phase(step)`.
      axes: matplotlib axes; new ones by default.
      steps: last step drawn; by default the schedule's end or a little past its
        last phase change.

    Returns:
      The matplotlib axes.

    Raises:
      ImportError: without matplotlib.
    """
    _require_matplotlib()
    import matplotlib.pyplot as plt

    if axes is None:
        _, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    steps = steps or getattr(schedule, "end_step", None)
    steps = steps or max(10, round(1.25 * _last_change(schedule)))
    handles = shade_phases(axes, schedule, steps)
    grid = np.arange(steps + 1)
    values = [100 * schedule.sparsity(int(step)) for step in grid]
    axes.plot(grid, values, color="black", linewidth=1.5, drawstyle="steps-post")
    axes.set(
        xlabel="training step",
        ylabel="blocks removed (%)",
        xlim=(0, steps),
        ylim=(-3, 103),
        title=type(schedule).__name__,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.22),
        ncols=3,
        frameon=False,
    )
    return axes


def schedule_figure(schedule: DrawnSchedule, step: int) -> Any:
    """Draws a schedule and where the training stands, away from the screen.

    Args:
      schedule: as for `plot_schedule`.
      step: training steps begun, marked by a line.

    Returns:
      The matplotlib figure.

    Raises:
      ImportError: without matplotlib.
    """
    _require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained", dpi=100)
    axes = plot_schedule(schedule, figure.subplots())
    if step:
        axes.axvline(min(step, axes.get_xlim()[1]), color="#c0392b", linewidth=1.5)
    return figure


def schedule_picture(schedule: DrawnSchedule, step: int) -> np.ndarray:
    """`schedule_figure` for TensorBoard: uint8 array (1, height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(schedule_figure(schedule, step))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[None, :, :, :3]


def picture(values: np.ndarray, size: int = 256) -> np.ndarray:
    """Turns one value a block into a grey picture for TensorBoard.

    Args:
      values: array (block rows, block columns).
      size: the longer side is enlarged to about this many pixels.

    Returns:
      uint8 array (1, height, width, 1); the largest value is white.
    """
    values = np.asarray(values, np.float32)
    scaled = np.uint8(255 * values / max(float(values.max()), 1e-12))
    factor = max(1, size // max(values.shape))
    return np.kron(scaled, np.ones((factor, factor), np.uint8))[None, :, :, None]
