"""DVID's JSON of repos, versions and instances, member order included."""

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from dvidzarr.repo.dag import Version, VersionDAG
    from dvidzarr.repo.instance import Instance
    from dvidzarr.repo.repo import Repo

_COMPRESSIONS = {
    "none": "No compression",
    "snappy": "Go Snappy compression",
    "lz4": "LZ4 compression",
    "gzip": "gzip compression",
    "jpeg": "jpeg compression",
}
_JPEG_LEVEL = 32
"""What DVID shows for types without blocks: the first number of its default block size."""
_CHECKSUMS = {"none": "No checksum", "crc32": "CRC32 checksum"}


def repo_json(repo: "Repo") -> dict[str, object]:
    """Return the JSON value of a repo; instances show the state of the master head."""
    dag = repo.dag
    head = dag.head("")
    instances = repo.instances
    return {
        "Root": repo.root,
        "Alias": repo.alias,
        "Description": repo.description,
        "Log": list(repo.log),
        "Properties": {},
        "DataInstances": {name: instance_json(instances[name], head) for name in sorted(instances)},
        "DAG": {"Root": repo.root, "Nodes": _nodes(dag)},
        "MutationID": repo.mutation_id,
        "SavedMutationID": repo.saved_mutation_id,
        "Created": repo.created,
        "Updated": repo.updated,
    }


@lru_cache(maxsize=8)
def _nodes(dag: "VersionDAG") -> orjson.Fragment:
    """Return the encoded versions by UUID: a DAG is a value, and one of 10 000 versions takes long to describe."""
    nodes = {uuid: version_json(dag, dag.versions[dag.by_uuid[uuid]]) for uuid in sorted(dag.by_uuid)}
    return orjson.Fragment(orjson.dumps(nodes))


def version_json(dag: "VersionDAG", version: "Version") -> dict[str, object]:
    """Return the JSON value of a version; its relatives are given by their numbers."""
    return {
        "Branch": version.branch,
        "Note": version.note,
        "Log": list(version.log),
        "UUID": version.uuid,
        "VersionID": version.number,
        "Locked": version.locked,
        "Parents": [dag.versions[parent].number for parent in version.parents],
        "Children": [dag.versions[child].number for child in dag.children(version.ordinal)],
        "Created": version.created,
        "Updated": version.updated,
    }


def instance_json(instance: "Instance", version: "Version") -> dict[str, object]:
    """Return `{"Base": …, "Extended": …}` of an instance at a version."""
    members = instance.described(version)
    return {"Base": base_json(instance, members["Extended"]), **members}


def base_json(instance: "Instance", extended: Mapping[str, object]) -> dict[str, object]:
    """Return what all datatypes have in common.

    Parameters
    ----------
    extended
        The instance's own part: a JPEG instance shows its first block dimension as the compression level, 32 without blocks.
    """
    return {
        "TypeName": instance.datatype.name,
        "TypeURL": instance.datatype.url,
        "TypeVersion": instance.datatype.version,
        "DataUUID": instance.uuid,
        "Name": instance.name,
        # the version at which it was created, not the root of the repo
        "RepoUUID": instance.created_at.uuid,
        "Compression": _compression(instance.compression, extended),
        "Checksum": _CHECKSUMS.get(instance.checksum, _CHECKSUMS["none"]),
        "Syncs": list(instance.syncs),
        "Versioned": instance.versioned,
        "KVStore": "dvidzarr",
        "LogStore": "dvidzarr log",
        "Tags": instance.tags,
    }


def _compression(setting: str, extended: Mapping[str, object]) -> str:
    name, _, level = setting.lower().partition(":")
    blocks = extended.get("BlockSize")
    if name == "jpeg":
        level = str(blocks[0] if isinstance(blocks, list | tuple) and blocks else _JPEG_LEVEL)
    return f"{_COMPRESSIONS.get(name, _COMPRESSIONS['lz4'])}, level {level or -1}"
