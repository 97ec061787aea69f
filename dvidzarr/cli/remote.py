"""A running server, through DVID's HTTP API: also a real DVID, as far as it has the routes."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from dvidzarr.cli.keys import RemoteKeys
from dvidzarr.cli.regions import RemoteRegion
from dvidzarr.cli.remotevolume import RemoteVolume, config_of, extents_of
from dvidzarr.cli.session import TARGET_TOKEN, Session
from dvidzarr.cli.target import InstanceInfo, RepoInfo, VersionInfo
from dvidzarr.core.errors import InvalidInputError, NotFoundError
from dvidzarr.core.ids import Author

_SURE = {"imsure": "true"}


class RemoteTarget:
    """A running server."""

    def __init__(self, url: str, author: Author, token_name: str = TARGET_TOKEN) -> None:
        self.where = url.rstrip("/")
        self.author = author
        self._session = Session(url, author, token_name)

    def repos(self) -> tuple[RepoInfo, ...]:
        """Return all repos, ordered by root."""
        answer = self._session.json("GET", "repos", "info")
        return tuple(_repo_info(answer[root]) for root in sorted(answer))

    def find(self, ref: str) -> tuple[RepoInfo, VersionInfo]:
        """Return the version that a reference names, and its repo."""
        answer = self._session.json("GET", "repo", ref, "info")
        with self._session.understanding("repo info"):
            repo = _repo_info(answer)
        return repo, _resolved(repo, ref)

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

    def new_version(self, ref: str, note: str, uuid: str | None = None) -> str:
        """Make a child on the same branch and return its UUID."""
        body = {"note": note} | ({"uuid": uuid} if uuid else {})
        return str(self._session.json("POST", "node", ref, "newversion", body=body)["child"])

    def branch(self, ref: str, name: str, note: str, uuid: str | None = None) -> str:
        """Make a child on a new branch and return its UUID."""
        body = {"branch": name, "note": note} | ({"uuid": uuid} if uuid else {})
        return str(self._session.json("POST", "node", ref, "branch", body=body)["child"])

    def tag(self, ref: str, tag: str, note: str) -> str:
        """Make a locked child of which the tag is the UUID, and return that."""
        return str(self._session.json("POST", "node", ref, "tag", body={"tag": tag, "note": note})["child"])

    def merge(self, refs: Sequence[str], note: str, uuid: str | None = None) -> str:
        """Make a child of several locked versions, the first its lineage; the server chooses its UUID."""
        body = {"mergeType": "conflict-free", "parents": list(refs), "note": note}
        return str(self._session.json("POST", "repo", refs[0], "merge", body=body)["child"])

    def conflicts(self, refs: Sequence[str]) -> Mapping[str, Any]:
        """Return what a merge of versions would leave in conflict, per instance (a route of dvidzarr)."""
        found: dict[str, Any] = self._session.json(
            "GET", "repo", refs[0], "conflicts", query={"parents": ",".join(refs)}
        )
        return found

    def resolve(self, refs: Sequence[str], instances: Sequence[str], note: str) -> str:
        """Merge, where the first version wins the conflicts in these instances; return the UUID."""
        body = {"data": list(instances), "parents": list(refs), "note": note}
        return str(self._session.json("POST", "repo", refs[0], "resolve", body=body)["child"])

    def volume(self, ref: str, name: str) -> RemoteVolume:
        """Open an instance at a version for reading and writing voxels."""
        version, _ = self._found(ref, name)
        info = self._session.json("GET", "node", version.uuid, name, "info")
        with self._session.understanding(f"info of {name!r}"):
            type_name, extended = info["Base"]["TypeName"], info["Extended"]
            if "Values" not in extended:
                raise InvalidInputError(f"{name!r} is of type {type_name}, which holds no voxels")
            if type_name == "labelblk":  # its info has extents of any version (spec-voxels §7.1)
                metadata = self._session.json("GET", "node", version.uuid, name, "metadata")
                info = {**info, "Extents": metadata["Properties"]}
            return RemoteVolume(self._session, version, name, info)

    def keys(self, ref: str, name: str) -> RemoteKeys:
        """Open a key-value instance at a version."""
        version, instance = self._found(ref, name)
        if instance.type_name != "keyvalue":
            raise InvalidInputError(f"{name!r} is of type {instance.type_name}, which holds no keys")
        return RemoteKeys(self._session, version.uuid, name)

    def region(self, ref: str, name: str) -> RemoteRegion:
        """Open a region of interest at a version."""
        version, instance = self._found(ref, name)
        if instance.type_name != "roi":
            raise InvalidInputError(f"{name!r} is of type {instance.type_name}, which is no region")
        return RemoteRegion(self._session, version.uuid, name)

    def config(self, ref: str, name: str) -> Mapping[str, str]:
        """Return DVID's settings that make such an instance."""
        info = self._session.json("GET", "node", ref, name, "info")
        with self._session.understanding(f"info of {name!r}"):
            return config_of(info["Base"], info.get("Extended") or {})

    def _found(self, ref: str, name: str) -> tuple[VersionInfo, InstanceInfo]:
        repo, version = self.find(ref)
        found = next((instance for instance in repo.instances if instance.name == name), None)
        if found is None:
            raise NotFoundError(f"repo {repo.root} has no instance {name!r}")
        return version, found

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
        InstanceInfo(name, item["Base"]["TypeName"], extents_of(item.get("Extended") or {}))
        for name, item in sorted(answer["DataInstances"].items())
    )
    return RepoInfo(answer["Root"], answer["Alias"], answer["Description"], versions, instances)
