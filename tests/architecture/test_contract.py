"""Every endpoint is in the OpenAPI document, and the other way round."""

from importlib import import_module

import orjson

from dvidzarr.core.resources import read_resource
from dvidzarr.datatypes import BUILTIN
from dvidzarr.http.endpoint import Endpoint
from dvidzarr.server.dispatch import FIXED_ENDPOINTS, ROOT_ENDPOINTS


def endpoints() -> list[Endpoint]:
    rows = [*FIXED_ENDPOINTS, *ROOT_ENDPOINTS.values()]
    for datatype in BUILTIN.values():
        module, _, name = datatype.endpoints.partition(":")
        rows += getattr(import_module(module), name).endpoints
    return rows


def test_endpoints_and_document_agree() -> None:
    paths = orjson.loads(read_resource("api/openapi/openapi.json"))["paths"]
    documented = {
        (verb.upper(), operation["operationId"])
        for item in paths.values()
        for verb, operation in item.items()
        if verb in ("get", "head", "put", "post", "delete")
    }
    served = {(verb, row.operation) for row in endpoints() for verb in row.methods}
    assert served - documented == set()
    assert documented - served == set()


def test_operation_ids_are_unique_in_the_document() -> None:
    paths = orjson.loads(read_resource("api/openapi/openapi.json"))["paths"]
    ids = [
        operation["operationId"]
        for item in paths.values()
        for operation in item.values()
        if isinstance(operation, dict) and "operationId" in operation
    ]
    assert sorted(ids) == sorted(set(ids))
