"""The figures of all processes of a server as one text: each sample says by the label `worker` whose it is."""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import Metric

LOG = logging.getLogger("dvidzarr.server")

ONLY = "only"
"""Query by which one process is asked for its own figures: `?only=this`."""

_PATIENCE_S = 2.0


async def asked(others: Mapping[int, str]) -> dict[int, bytes]:
    """Return the metrics of other processes, given by number and private socket; one that does not answer is left out."""
    texts = await asyncio.gather(*map(_ask, others.values()))
    return {number: text for number, text in zip(others, texts, strict=True) if text is not None}


async def _ask(path: str) -> bytes | None:
    # a server of one process never gets here
    from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector  # noqa: PLC0415

    timeout = ClientTimeout(total=_PATIENCE_S)
    try:
        async with (
            ClientSession(connector=UnixConnector(path), timeout=timeout) as session,
            session.get(f"http://localhost/metrics?{ONLY}=this") as answer,
        ):
            answer.raise_for_status()
            return await answer.read()
    except (ClientError, TimeoutError) as error:  # it is being replaced
        LOG.warning("the metrics of a worker are missing: %s", str(error) or type(error).__name__)
        return None


def merged(texts: Mapping[int, bytes]) -> bytes:
    """Return one exposition of several, by number of the process."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - as in metrics.py

    registry = CollectorRegistry()
    registry.register(_Families(texts))
    return generate_latest(registry)


class _Families:
    def __init__(self, texts: Mapping[int, bytes]) -> None:
        self._texts = texts

    def describe(self) -> list["Metric"]:
        """Return nothing, so that registering collects nothing."""
        return []

    def collect(self) -> Iterator["Metric"]:
        """Yield each family once, with the samples of all processes."""
        from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - as above

        families: dict[str, Metric] = {}
        for number in sorted(self._texts):
            for family in text_string_to_metric_families(self._texts[number].decode()):
                samples = [
                    sample._replace(labels={**sample.labels, "worker": str(number)})
                    for sample in family.samples
                ]
                known = families.setdefault(family.name, family)
                known.samples = samples if known is family else known.samples + samples
        yield from families.values()
