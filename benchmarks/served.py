"""Reading over HTTP: our server in a process of its own, beside a server that sends constant bytes."""

import random
from collections.abc import Iterator
from functools import partial

from benchmarks.process import Client, running, serve
from benchmarks.timing import Case
from benchmarks.volumes import BLOCK, GRAY, Built, Plan, boxes, over
from dvidzarr.core.geometry import Box

_SLICES = {"xy": "0_0_{}", "xz": "0_{}_0", "yz": "{}_0_0"}
_PICTURES = 60


def raw_path(root: str, box: Box, instance: str = GRAY) -> str:
    """Return the path of `raw` for a box."""
    offset, size = ("_".join(map(str, xyz)) for xyz in box.to_xyz())
    return f"/api/node/{root}/{instance}/raw/0_1_2/{size}/{offset}"


def cases(plan: Plan, built: Built) -> Iterator[list[Case]]:
    """Yield groups of cases that do the same."""
    with running(*serve(built.store)) as server, running("benchmarks.loopback") as constant:
        client, ceiling = Client(server.url), Client(constant.url)
        for edge, aligned in _volumes(plan.size):
            name = f"GET {edge}³ {'aligned' if aligned else 'unaligned'}"
            places = boxes(plan.size, edge, aligned=aligned)
            ours = over(places, lambda box: client.get(raw_path(built.root, box)))
            yield [
                Case(name, "dvidzarr serve", ours, edge**3),
                Case(name, "constant bytes", partial(ceiling.get, f"/{edge**3}"), edge**3),
            ]
        yield from _pictures(plan.size, built.root, client)
        client.close()
        ceiling.close()


def _volumes(size: int) -> Iterator[tuple[int, bool]]:
    edge = BLOCK
    while edge < size:
        yield edge, True
        edge *= 2
    yield size, True
    yield 2 * BLOCK, False


def _pictures(size: int, root: str, client: Client) -> Iterator[list[Case]]:
    draw = random.Random(7)
    depths = draw.sample(range(size), min(size, _PICTURES))
    for image in ("png", "jpg:80"):
        group = []
        for plane, offset in _SLICES.items():
            base = f"/api/node/{root}/{GRAY}/raw/{plane}/{size}_{size}"
            paths = [f"{base}/{offset.format(depth)}/{image}" for depth in depths]
            group.append(
                Case(
                    f"GET slice {size}² {image[:3]}",
                    f"dvidzarr serve, {plane}",
                    over(paths, client.get),
                    size**2,
                )
            )
        yield group
