"""docs/api.md is what the application says of itself."""

from __future__ import annotations

import httpx

from api_reference import PAGE, render


async def test_the_page_is_written_from_this_schema(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    assert PAGE.read_text(encoding="utf-8") == render(schema), "write it anew: python tests/api_reference.py"


async def test_every_route_and_field_is_on_the_page(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    page = PAGE.read_text(encoding="utf-8")
    assert [path for path in schema["paths"] if f" {path}\n" not in page] == []
    fields = schema["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"input", "truncate"} < set(fields["properties"])
    assert [name for name in fields["properties"] if f"| `{name}` |" not in page] == []
