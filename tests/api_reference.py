"""docs/api.md, written from the server's own OpenAPI schema and its errors: python tests/api_reference.py

It starts a server of its own, and asks it. `api/test_api_reference.py` sees to it that the page is as this writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from embedway.errors import EmbedwayError, RequestError, ServerFault
from running_server import RunningServer

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
METHODS = ("get", "post", "delete")
HEAD = """\
# API

Written from the server's OpenAPI schema by `python tests/api_reference.py`; the server has the same at `/docs` and
`/openapi.json`.

Bodies are JSON, with `Content-Type: application/json`, but for uploads. Types are strict: no string is taken for a
number. Unknown fields are ignored, and null is the same as leaving a field out. Where the server has API keys, all
routes but `/livez`, `/readyz`, `/health` and the playground's files ask for `Authorization: Bearer KEY`; those that
change the server ask for the admin's. Every answer has an `X-Request-Id`: the one that the request gave, or a new one.
"""
ERRORS_HEAD = """\
## Errors
Every error has OpenAI's shape, on every path: `{"error": {"message", "type", "param", "code"}}`. `param` names the
field, and the item's index; `code` does not change between versions. Answers of 429 and 503 have `Retry-After`, in
seconds.

| status | type | code |
|---|---|---|
"""

Schema = Mapping[str, Any]


def render(openapi: Schema) -> str:
    """The whole page, as Markdown."""
    models = openapi["components"]["schemas"]
    routes = [
        "\n".join(route_section(method.upper(), path, operation, models))
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
        if method in METHODS
    ]
    return "\n".join([HEAD, *routes, ERRORS_HEAD + "\n".join(error_rows()), ""])


def route_section(method: str, path: str, operation: Schema, models: Schema) -> Iterator[str]:
    yield f"## {method} {path}"
    yield f"{operation['summary']}. {operation.get('description', '')}".rstrip() + "\n"
    if "requestBody" in operation:
        [(content_type, content)] = operation["requestBody"]["content"].items()
        if content_type != "application/json":
            yield f"The body is `{content_type}`.\n"
        yield from field_table("field", content["schema"])
    if query := [one for one in operation.get("parameters", []) if one["in"] == "query"]:
        yield from field_table("query", {"properties": {one["name"]: {**one["schema"], **one} for one in query}})
    answer = answer_of(operation)
    if "$ref" in answer:
        yield from field_table("answer's field", resolved(answer, models))


def answer_of(operation: Schema) -> Schema:
    """The schema of what is sent where all is well."""
    well = operation["responses"][min(operation["responses"])]
    return next((content["schema"] for content in well.get("content", {}).values()), {})


def field_table(title: str, schema: Schema) -> Iterator[str]:
    required = schema.get("required", [])
    yield f"| {title} | type | what it is |"
    yield "|---|---|---|"
    for name, field in schema["properties"].items():
        needed = " **(required)**" if name in required and title == "field" else ""
        yield f"| `{name}` | {kind_of(field)} | {description_of(field)}{needed} |"
    yield ""


def description_of(schema: Schema) -> str:
    """Its own, or that of the first of its types that has one."""
    own = (choice.get("description", "") for choice in (schema, *schema.get("anyOf", [])))
    return next(filter(None, own), "")


def kind_of(schema: Schema) -> str:
    """A schema's type in words."""
    if "anyOf" in schema:
        kinds = [kind_of(choice) for choice in schema["anyOf"] if choice.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "$ref" in schema:
        return f"`{name_of(schema)}`"
    if schema.get("type") == "array":
        return f"list of {kind_of(schema['items'])}"
    if schema.get("type") == "object" and "properties" in schema:
        return "object with " + ", ".join(f"`{name}`" for name in schema["properties"])
    return schema.get("type", "any")


def name_of(reference: Schema) -> str:
    return reference["$ref"].rpartition("/")[2]


def resolved(reference: Schema, models: Schema) -> Schema:
    """A model's schema, with those that it names in their places."""
    schema = models[name_of(reference)]
    return {**schema, "properties": {name: inlined(field, models) for name, field in schema["properties"].items()}}


def inlined(schema: Schema, models: Schema) -> Schema:
    if "$ref" in schema:
        return {"type": "object", **resolved(schema, models)}
    if "items" in schema:
        return {**schema, "items": inlined(schema["items"], models)}
    return schema


def error_rows() -> list[str]:
    rows = {(error.status, error.type, error.code) for error in kinds_of(RequestError) | kinds_of(ServerFault)}
    return [f"| {status} | `{kind}` | `{code}` |" for status, kind, code in sorted(rows)]


def kinds_of(base: type[EmbedwayError]) -> set[type[EmbedwayError]]:
    return {base, *(kind for child in base.__subclasses__() for kind in kinds_of(child))} - {RequestError, ServerFault}


def main() -> None:
    with RunningServer() as server:
        PAGE.write_text(render(httpx.get(f"{server.url}/openapi.json").json()), encoding="utf-8")


if __name__ == "__main__":
    main()
