"""A running server, through DVID's HTTP API: also a real DVID, as far as it has the routes."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import orjson

from dvidzarr.cli.keys import RemoteKeys
from dvidzarr.cli.target import InstanceInfo, RepoInfo, VersionInfo, VolumeInfo
from dvidzarr.core.errors import BusyError, DvidzarrError, InvalidInputError, NotFoundError, StorageError
from dvidzarr.core.geometry import ZYX, Box
from dvidzarr.core.ids import Author

TRIES = 6
PATIENCE_S = 120.0
"""Longest wait for the first byte of an answer; a commit may drain for 30 s."""
_SURE = {"imsure": "true"}


class Session:
    """Requests to one server: author, admin token, retries of 503, errors by meaning."""

    def __init__(self, url: str, author: Author) -> None:
        token = os.environ.get("DVID_ADMIN_TOKEN")
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            params={key: value for key, value in (("u", author.user), ("app", author.app)) if value},
            timeout=httpx.Timeout(PATIENCE_S, connect=10.0),
            trust_env=False,
        )

    def request(
        self, method: str, *words: str, content: bytes | None = None, query: Mapping[str, str] | None = None
    ) -> bytes:
        """Send one request, again while the server says that it is busy, and return the answer's body."""
        path = "/api/" + "/".join(quote(word, safe=":~_,") for word in words)
        for attempt in range(TRIES):
            try:
                answer = self._http.request(method, self.url + path, content=content, params=query)
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
                raise StorageError(f"no answer from {self.url} ({method} {path}): {reason}") from error
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or attempt == TRIES - 1:
                break
            time.sleep(min(float(_seconds(answer.headers.get("retry-after"))), 30.0))
        if answer.is_success:
            return answer.content
        raise _error(answer.status_code, answer.text.strip() or answer.reason_phrase)

    def json(
        self,
        method: str,
        *words: str,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Any:  # noqa: ANN401
        """Send one request with a JSON body and return the decoded answer."""
        content = None if body is None else orjson.dumps(body)
        answer = self.request(method, *words, content=content, query=query)
        try:
            return orjson.loads(answer) if answer else None
        except orjson.JSONDecodeError as error:
            raise StorageError(
                f"{self.url} does not speak DVID's API: the answer to {words} is not JSON"
            ) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class RemoteVolume:
    """A voxel instance at a version of a running server."""

    def __init__(
        self, session: Session, version: VersionInfo, instance: str, info: Mapping[str, Any]
    ) -> None:
        base, extended = info["Base"], info["Extended"]
        values = extended.get("Values") or []
        if len(values) != 1:
            raise InvalidInputError(
                f"{instance!r} is of type {base['TypeName']}, which does not hold one number a voxel"
            )
        self.info = VolumeInfo(
            name=instance,
            version=version.uuid,
            data_uuid=base["DataUUID"],
            locked=version.locked and bool(base.get("Versioned", True)),
            dtype=np.dtype(values[0]["DataType"]).newbyteorder("<"),
            chunk=_zyx(extended["BlockSize"]),
            extents=_extents(info.get("Extents") or extended),
            voxel_size_xyz=tuple(float(size) for size in extended["VoxelSize"]),  # type: ignore[arg-type]
            voxel_units_xyz=tuple(extended["VoxelUnits"]),
        )
        self._session = session

    def read(self, box: Box) -> np.ndarray:
        """Return the voxels of a box, 0 where none were written."""
        body = self._session.request("GET", *self._raw(box))
        wanted = box.volume * self.info.dtype.itemsize
        if len(body) != wanted:
            raise StorageError(
                f"{self._session.url} sent {len(body)} bytes for the box {box}, expected {wanted}"
            )
        return np.frombuffer(body, self.info.dtype).reshape(box.shape)

    def write(self, box: Box, array: np.ndarray) -> None:
        """Store a box. DVID takes whole blocks only: the rest of border blocks is read first."""
        span = box.chunks(self.info.chunk)
        whole = Box(_scaled(span.start, self.info.chunk), _scaled(span.stop, self.info.chunk))
        voxels = np.ascontiguousarray(array, self.info.dtype)
        if whole != box:
            around = self.read(whole).copy()
            inside = zip(box.start, box.stop, whole.start, strict=True)
            around[tuple(slice(low - base, high - base) for low, high, base in inside)] = voxels
            voxels = around
        self._session.request("POST", *self._raw(whole), content=voxels.tobytes())

    def set_extents(self, box: Box) -> None:
        """Replace the extents of this version; DVID's points are inclusive."""
        (x, y, z), (width, height, depth) = box.to_xyz()
        body = {"MinPoint": [x, y, z], "MaxPoint": [x + width - 1, y + height - 1, z + depth - 1]}
        self._session.json("POST", "node", self.info.version, self.info.name, "extents", body=body)

    def _raw(self, box: Box) -> tuple[str, ...]:
        offset, size = box.to_xyz()
        words = ("_".join(map(str, size)), "_".join(map(str, offset)))
        return ("node", self.info.version, self.info.name, "raw", "0_1_2", *words)


class RemoteTarget:
    """A running server."""

    def __init__(self, url: str, author: Author) -> None:
        self.where = url.rstrip("/")
        self.author = author
        self._session = Session(url, author)

    def repos(self) -> tuple[RepoInfo, ...]:
        """Return all repos, ordered by root."""
        answer = self._session.json("GET", "repos", "info")
        return tuple(_repo_info(answer[root]) for root in sorted(answer))

    def type_names(self) -> frozenset[str]:
        """Return the datatypes compiled into the server."""
        return frozenset(self._session.json("GET", "server", "compiled-types"))

    def create_repo(self, alias: str, description: str, root: str | None) -> str:
        """Make a repo and return the UUID of its root version."""
        body = {"alias": alias, "description": description} | ({"root": root} if root else {})
        return str(self._session.json("POST", "repos", body=body)["root"])

    def delete_repo(self, ref: str) -> None:
        """Remove the repo that holds a version (a route of dvidzarr)."""
        self._session.request("POST", "repo", ref, "delete", query=_SURE)

    def create_instance(self, ref: str, type_name: str, name: str, config: Mapping[str, str]) -> None:
        """Make an instance; `config` holds DVID's settings as texts."""
        body = {"typename": type_name, "dataname": name} | dict(config)
        self._session.json("POST", "repo", ref, "instance", body=body)

    def rename_instance(self, ref: str, old: str, new: str) -> None:
        """Give an instance a new name (a route of dvidzarr)."""
        self._session.request(
            "POST", "repo", ref, "instance", old, "rename", content=orjson.dumps({"name": new})
        )

    def delete_instance(self, ref: str, name: str) -> None:
        """Remove an instance with its data in all versions (a route of dvidzarr)."""
        self._session.request("DELETE", "repo", ref, "instance", name, query=_SURE)

    def has_instance(self, ref: str, name: str) -> bool:
        """Tell whether the repo of a version has an instance of this name."""
        return name in self._session.json("GET", "repo", ref, "info")["DataInstances"]

    def commit(self, ref: str, note: str) -> str:
        """Lock a version and return its UUID."""
        return str(self._session.json("POST", "node", ref, "commit", body={"note": note})["committed"])

    def new_version(self, ref: str, note: str) -> str:
        """Make a child on the same branch and return its UUID."""
        return str(self._session.json("POST", "node", ref, "newversion", body={"note": note})["child"])

    def branch(self, ref: str, name: str, note: str) -> str:
        """Make a child on a new branch and return its UUID."""
        return str(
            self._session.json("POST", "node", ref, "branch", body={"branch": name, "note": note})["child"]
        )

    def conflicts(self, refs: Sequence[str]) -> Mapping[str, Any]:
        """Return what a merge of versions would leave in conflict, per instance (a route of dvidzarr)."""
        found: dict[str, Any] = self._session.json(
            "GET", "repo", refs[0], "conflicts", query={"parents": ",".join(refs)}
        )
        return found

    def merge(self, refs: Sequence[str], note: str) -> str:
        """Make a version below several ones and return its UUID."""
        body = {"mergeType": "conflict-free", "parents": list(refs), "note": note}
        return str(self._session.json("POST", "repo", refs[0], "merge", body=body)["child"])

    def resolve(self, refs: Sequence[str], instances: Sequence[str], note: str) -> str:
        """Merge, where the first version wins the conflicts in these instances; return the UUID."""
        body = {"data": list(instances), "parents": list(refs), "note": note}
        return str(self._session.json("POST", "repo", refs[0], "resolve", body=body)["child"])

    def volume(self, ref: str, name: str) -> RemoteVolume:
        """Open an instance at a version for reading and writing voxels."""
        version, _ = self._found(ref, name)
        info = self._session.json("GET", "node", version.uuid, name, "info")
        if "BlockSize" not in info["Extended"]:
            raise InvalidInputError(f"{name!r} is of type {info['Base']['TypeName']}, which holds no voxels")
        return RemoteVolume(self._session, version, name, info)

    def keys(self, ref: str, name: str) -> RemoteKeys:
        """Open a key-value instance at a version."""
        version, instance = self._found(ref, name)
        if instance.type_name != "keyvalue":
            raise InvalidInputError(f"{name!r} is of type {instance.type_name}, which holds no keys")
        return RemoteKeys(self._session, version.uuid, name)

    def _found(self, ref: str, name: str) -> tuple[VersionInfo, InstanceInfo]:
        repo = _repo_info(self._session.json("GET", "repo", ref, "info"))
        found = next((instance for instance in repo.instances if instance.name == name), None)
        if found is None:
            raise NotFoundError(f"repo {repo.root} has no instance {name!r}")
        return _resolved(repo, ref), found

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def __enter__(self) -> "RemoteTarget":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _resolved(repo: RepoInfo, ref: str) -> VersionInfo:
    """Return the version a reference names, so that a new head cannot change the target of a running copy."""
    prefix, colon, rest = ref.partition(":")
    if not colon or not rest:
        exact = [version for version in repo.versions if version.uuid == prefix]
        found = exact or [version for version in repo.versions if version.uuid.startswith(prefix)]
        if colon and not prefix:
            return _ancestor(repo, "", 0)
        if len(found) != 1:
            raise NotFoundError(f"{ref!r} names {len(found)} versions of repo {repo.root}")
        return found[0]
    branch, _, steps = rest.partition("~")
    if steps and not steps.isdecimal():
        raise InvalidInputError(f"can't parse parent {steps!r} in branch {branch!r}")
    return _ancestor(repo, "" if branch == "master" else branch, int(steps or 0))


def _ancestor(repo: RepoInfo, branch: str, steps: int) -> VersionInfo:
    by_uuid = {version.uuid: version for version in repo.versions}
    on_branch = [version for version in repo.versions if version.branch == branch]
    if not on_branch:
        raise NotFoundError(f"branch {branch!r} not found in repo {repo.root}")
    version = max(on_branch, key=lambda item: item.number)
    for _ in range(steps):
        if not version.parents:
            raise InvalidInputError(f"parent {steps} is out of range for branch {branch!r}")
        version = by_uuid[version.parents[0]]
    return version


def _repo_info(answer: Mapping[str, Any]) -> RepoInfo:
    nodes = sorted(answer["DAG"]["Nodes"].values(), key=lambda node: node["VersionID"])
    uuids = {node["VersionID"]: node["UUID"] for node in nodes}
    versions = tuple(
        VersionInfo(
            uuid=node["UUID"],
            number=node["VersionID"],
            branch=node["Branch"],
            note=node["Note"],
            locked=node["Locked"],
            parents=tuple(uuids[number] for number in node["Parents"]),
            created=node["Created"],
        )
        for node in nodes
    )
    instances = tuple(
        InstanceInfo(name, item["Base"]["TypeName"], _extents(item.get("Extended") or {}))
        for name, item in sorted(answer["DataInstances"].items())
    )
    return RepoInfo(answer["Root"], answer["Alias"], answer["Description"], versions, instances)


def _extents(members: Mapping[str, Any]) -> Box | None:
    low, high = members.get("MinPoint"), members.get("MaxPoint")
    if not low or not high:
        return None
    return Box.from_xyz(low, [last - first + 1 for first, last in zip(low, high, strict=True)])


def _zyx(xyz: list[int]) -> ZYX:
    x, y, z = xyz
    return (z, y, x)


def _scaled(coords: ZYX, chunk: ZYX) -> ZYX:
    return (coords[0] * chunk[0], coords[1] * chunk[1], coords[2] * chunk[2])


def _seconds(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 2


def _error(status: int, text: str) -> DvidzarrError:
    if status == httpx.codes.NOT_FOUND:
        return NotFoundError(text)
    if status == httpx.codes.SERVICE_UNAVAILABLE:
        return BusyError(text)
    return InvalidInputError(text) if status < httpx.codes.INTERNAL_SERVER_ERROR else StorageError(text)
