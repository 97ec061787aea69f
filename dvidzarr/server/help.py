"""Help pages, rendered from the API contract and the datatypes' own help texts."""

import re
from html import escape

import orjson

from dvidzarr.core.resources import read_resource

OPENAPI = "api/openapi/openapi.json"

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
dt {{ font-family: monospace; margin-top: .5em }}
dd {{ margin-left: 2em; color: #444 }}
</style></head><body>
<h1>{title}</h1>
<p>{text}</p>
<h2>Datatypes</h2>
<p>Each describes its routes, which lie below <code>/api/node/{{uuid}}/{{instance}}/</code>.</p>
<ul>
{links}
</ul>
<h2>Routes above the instances</h2>
<p><code>{{uuid}}</code> is a version: its UUID, a unique prefix of it, or <code>prefix:branch</code>, such as
<code>:master</code> where there is one repo.</p>
<dl>
{rows}
</dl>
</body></html>
"""


def overview(types: tuple[str, ...]) -> str:
    """Return the HTML page that lists all routes above the instances and the datatypes.

    Parameters
    ----------
    types
        Names of the datatypes.
    """
    document = orjson.loads(read_resource(OPENAPI))
    links = "\n".join(
        f'<li><a href="/api/help/{escape(name)}">{escape(name)}</a></li>' for name in sorted(types)
    )
    rows = "\n".join(_row(path, item) for path, item in document["paths"].items() if "{instance}" not in path)
    title, text = escape(document["info"]["title"]), _marked(document["info"]["description"])
    return _PAGE.format(title=title, text=text, links=links, rows=rows)


def type_help(resource: str) -> str:
    """Return the help text of a datatype with one newline at its end."""
    return read_resource(resource).decode().rstrip("\n") + "\n"


def _row(path: str, item: dict[str, dict[str, str]]) -> str:
    operations = [
        (verb.upper(), operation["summary"]) for verb, operation in item.items() if verb != "parameters"
    ]
    return "\n".join(
        f"<dt>{verb} {escape(path)}</dt><dd>{_marked(summary)}</dd>" for verb, summary in operations
    )


def _marked(text: str) -> str:
    """Return text of the contract as HTML, what stands between backticks as code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))
