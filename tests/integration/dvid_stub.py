"""A server that answers a few of DVID's routes as its specification says, byte by byte, and fails when told to.

It holds one repo of versions, each with the blocks it wrote. Nothing of the package is used to make the answers.
"""

import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from urllib.parse import parse_qs, unquote, urlsplit

import lz4.block
import numpy as np

from dvidzarr.wire.keyvalues import decode_keys, key_value_head

Coord = tuple[int, int, int]
BLOCK = 8


@dataclass
class Node:
    """A version: the blocks it wrote itself by (instance, block coordinate x, y, z)."""

    uuid: str
    parent: str | None
    branch: str = ""
    note: str = ""
    locked: bool = True
    blocks: dict[tuple[str, Coord], np.ndarray] = field(default_factory=dict)


@dataclass
class Dvid:
    """What the server holds, and how it misbehaves.

    Attributes
    ----------
    instances
        Name → (type name, DVID's name of the numbers, compression as `info` words it).
    faults
        Answers that are given first to requests for blocks and values: a status, "drop" (no answer), "cut" (half of
        one), or bytes instead of the body.
    values
        What its key-value instances hold, at every version.
    pretends
        If not None, the body of every answer: that of a server of another kind.
    asked
        Paths of all requests for blocks and values that were answered.
    """

    nodes: dict[str, Node]
    instances: dict[str, tuple[str, str, str]]
    faults: list[int | str | bytes] = field(default_factory=list)
    values: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    token: str = ""
    pretends: bytes | None = None

    def block(self, uuid: str | None, name: str, coord: Coord) -> np.ndarray | None:
        while uuid is not None:
            found = self.nodes[uuid].blocks.get((name, coord))
            if found is not None:
                return found
            uuid = self.nodes[uuid].parent
        return None

    def extents(self, uuid: str | None, name: str) -> tuple[list[int] | None, list[int] | None]:
        coords = []
        while uuid is not None:
            coords += [coord for each, coord in self.nodes[uuid].blocks if each == name]
            uuid = self.nodes[uuid].parent
        if not coords:
            return None, None
        low, high = np.min(coords, axis=0), np.max(coords, axis=0)
        return (low * BLOCK).tolist(), (high * BLOCK + BLOCK - 1).tolist()

    def base(self, name: str) -> dict[str, object]:
        kind, _, compression = self.instances[name]
        return {
            "TypeName": kind,
            "DataUUID": f"{name:x<32}",
            "Name": name,
            "Compression": compression,
            "Checksum": "No checksum",
            "Versioned": True,
            "Tags": {"stain": "osmium"},
        }

    def extended(self, uuid: str, name: str) -> dict[str, object]:
        low, high = self.extents(uuid, name)
        return {
            "Values": [{"DataType": self.instances[name][1], "Label": name}],
            "BlockSize": [BLOCK] * 3,
            "VoxelSize": [4, 4, 13.1],
            "VoxelUnits": ["nanometers"] * 3,
            "MinPoint": low,
            "MaxPoint": high,
            "Background": 7,
        }

    def repo(self) -> dict[str, object]:
        numbers = {uuid: number for number, uuid in enumerate(self.nodes, 1)}
        root = next(iter(self.nodes))
        nodes = {
            node.uuid: {
                "Branch": node.branch,
                "Note": node.note,
                "Log": [],
                "UUID": node.uuid,
                "VersionID": numbers[node.uuid],
                "Locked": node.locked,
                "Parents": [numbers[node.parent]] if node.parent else [],
                "Children": [],
                "Created": "2020-01-01T00:00:00Z",
                "Updated": "2020-01-01T00:00:00Z",
            }
            for node in self.nodes.values()
        }
        data = {
            name: {"Base": self.base(name), "Extended": self.extended(root, name)} for name in self.instances
        }
        return {
            "Root": root,
            "Alias": "fly",
            "Description": "from afar",
            "DataInstances": data,
            "DAG": {"Root": root, "Nodes": nodes},
        }

    def stream(self, uuid: str, name: str, size: str, offset: str, compression: str) -> bytes:
        """Return the frames of an aligned box: z outermost; LZ4 with a length for images, bare for labels."""
        low = [int(word) // BLOCK for word in offset.split("_")]
        count = [int(word) // BLOCK for word in size.split("_")]
        out = b""
        for z, y, x in product(*(range(low[axis], low[axis] + count[axis]) for axis in (2, 1, 0))):
            found = self.block(uuid, name, (x, y, z))
            if found is not None:
                plain = found.tobytes()
                labels = self.instances[name][0] == "labelblk"
                packed = lz4.block.compress(plain, store_size=not labels)
                payload = plain if compression == "uncompressed" else packed
                out += struct.pack("<4i", x, y, z, len(payload)) + payload
        return out


class Handler(BaseHTTPRequestHandler):
    dvid: Dvid

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        words = unquote(url.path).strip("/").split("/")[1:]
        if self.dvid.pretends is not None:
            self._answer(200, self.dvid.pretends)
        elif self.dvid.token and self.headers.get("Authorization") != f"Bearer {self.dvid.token}":
            self._answer(401, b"unauthorized")
        elif words[0] == "repo" and words[2:] == ["info"]:
            self._repo(words[1])
        elif words[0] == "node":
            self._node(words[1:], parse_qs(url.query).get("compression", [""])[0])
        else:
            self._answer(404, b"404 page not found\n")

    def _repo(self, ref: str) -> None:
        if sum(uuid.startswith(ref) for uuid in self.dvid.nodes) == 1:
            self._answer(200, json.dumps(self.dvid.repo()).encode())
        else:
            self._answer(400, f"could not find UUID with partial match to {ref}\n".encode())

    def _node(self, words: list[str], compression: str) -> None:
        uuid, name, keyword, *rest = words
        extended = self.dvid.extended(uuid, name)
        if keyword == "info":
            self._answer(200, json.dumps({"Base": self.dvid.base(name), "Extended": extended}).encode())
        elif keyword == "metadata":
            self._answer(200, json.dumps({"Axes": [], "Properties": extended}).encode() + b"\n")
        elif keyword == ("blocks" if self.dvid.instances[name][0] == "labelblk" else "subvolblocks"):
            self._unless_faulty(self.dvid.stream(uuid, name, rest[0], rest[1], compression))
        elif keyword == "keys":
            self._answer(200, json.dumps(sorted(self.dvid.values)).encode())
        elif keyword == "key":
            self._unless_faulty(self.dvid.values[rest[0]])
        elif keyword == "keyvalues":
            (wanted,) = decode_keys(self.rfile.read(int(self.headers["Content-Length"])))
            value = self.dvid.values[wanted.key.decode()]
            self._unless_faulty(key_value_head(wanted.key, len(value)) + value)
        else:
            self._answer(400, f"Bad API call ({self.path})\n".encode())

    def _unless_faulty(self, body: bytes) -> None:
        fault = self.dvid.faults.pop(0) if self.dvid.faults else None
        if isinstance(fault, int):
            self._answer(fault, b"Server already running 1 throttled operations (max = 1)\n\n")
        elif fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault != "drop":
            self.dvid.asked.append(self.path)
            self._answer(200, fault if isinstance(fault, bytes) else body)
        else:
            self.close_connection = True

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(dvid: Dvid) -> Iterator[str]:
    """Serve from a thread; yield host:port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"dvid": dvid}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
