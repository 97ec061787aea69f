"""The curves of scaling as pictures (matplotlib)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.timing import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ENOUGH_FOR_P99 = 500
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # told apart by everybody (Okabe, Ito 2008)


@dataclass(frozen=True, slots=True)
class Picture:
    """Curves that share their axes. `names` are names of figures; their `who` is the place on the x axis."""

    file: str
    title: str
    x: str
    y: str
    names: tuple[str, ...]


PICTURES = (
    Picture(
        "depth",
        "Cost of history",
        "versions",
        "ms",
        (
            "read 64³ of the root",
            "read 64³ of the root, 64 branches",
            "GET 64³ of the root",
            "commit and new version",
        ),
    ),
    Picture(
        "postings",
        "Chunk index in memory",
        "chunk versions",
        "ms",
        ("look up 1 chunk", "look up 512 chunks", "publish 1 chunk"),
    ),
    Picture("opening", "Opening a store", "chunk versions", "ms", ("open a store", "open without caches")),
    Picture(
        "changes",
        "Changing a store",
        "chunk versions",
        "ms",
        ("write 64³, durable", "commit and new version after a write", "shape of the array"),
    ),
    Picture("memory", "Resident memory, opened", "chunk versions", "MB", ("resident memory, opened",)),
)


def draw(figures: Sequence[Figure], folder: Path) -> Iterator[Path]:
    """Draw the pictures into a folder as SVG and yield their paths; nothing without matplotlib, which is said."""
    try:
        from matplotlib import use  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure as Sheet  # noqa: PLC0415
    except ImportError as error:
        print(f"no pictures: {error}")
        return
    use("Agg")
    folder.mkdir(exist_ok=True)
    for picture in PICTURES:
        curves = {name: [f for f in figures if f.name == name] for name in picture.names}
        if not any(curves.values()):
            continue
        sheet = Sheet(figsize=(6, 4), layout="constrained")
        _plot(sheet.subplots(), picture, curves)
        sheet.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
        path = folder / f"{picture.file}.svg"
        sheet.savefig(path, metadata={"Date": None})
        yield path


def _plot(axes: "Axes", picture: Picture, curves: dict[str, list[Figure]]) -> None:
    dotted = False
    for (name, figures), colour in zip(curves.items(), _COLOURS, strict=False):
        scale = 1e3 if picture.y == "ms" else 1.0
        if not figures:
            continue
        x = [int(figure.who) for figure in figures]
        axes.plot(x, [figure.value * scale for figure in figures], "o-", color=colour, label=name)
        if any(figure.samples > 1 for figure in figures):
            low, high = [f.low * scale for f in figures], [f.high * scale for f in figures]
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        if all(figure.samples >= _ENOUGH_FOR_P99 for figure in figures):
            dotted = True
            axes.plot(x, [figure.p99 * scale for figure in figures], ":", color=colour)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=picture.x,
        ylabel=f"{picture.y} (dotted: p99)" if dotted else picture.y,
        title=picture.title,
    )
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom / 2, top * 2)  # a flat curve shall look flat
    axes.grid(visible=True, which="major", alpha=0.3)
