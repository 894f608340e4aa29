"""What the check found, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from embedway.comparison.samples import TEXTS
from embedway.models.weight_dtype import BROKEN_COSINE

if TYPE_CHECKING:
    from embedway.comparison.deviation import Deviation
    from embedway.comparison.model_check import ModelCheck, TypeCheck

SHOWN_TEXT = 60
"""Characters of a text that is at fault"""
COLUMNS = ("weights", "worst cosine", "mean cosine", "max difference", "tokens/s", "× reference")


def print_check(console: Console, check: ModelCheck) -> None:
    spec = check.spec
    console.print(
        Text(f"{spec.name} ({spec.model_type}), beside {check.reference} in float32", style="bold"), soft_wrap=True
    )
    for name, fact, is_alike in facts(check):
        mark = Text("  differs", style="bold red") if not is_alike else Text()
        console.print(Text.assemble((f"  {name:<10}", "dim"), fact, mark), soft_wrap=True)
    console.print()
    console.print(table(check))
    for line in remarks(check):
        console.print(Text(line), soft_wrap=True)
    console.print(verdict(check.passes))


def facts(check: ModelCheck) -> list[tuple[str, str, bool]]:
    """Name, what it is, and whether the reference agrees where it says"""
    rows = []
    for name, (ours, theirs) in check.declarations.items():
        is_alike = theirs in (None, ours)
        rows.append((name, ours if is_alike else f"{ours}, but {theirs} in {check.reference}", is_alike))
    same = len(TEXTS) - len(check.token_differences)
    rows.append(("length", f"{check.spec.max_length} tokens", True))
    rows.append(("token ids", f"as AutoTokenizer's for {same} of {len(TEXTS)} texts", not check.token_differences))
    return rows


def table(check: ModelCheck) -> Table:
    made = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for name in COLUMNS:
        made.add_column(name, justify="left" if name == COLUMNS[0] else "right")
    made.add_column("")
    for one in check.types:
        for name, found in kinds(one):
            made.add_row(f"{one.facts['dtype']}{name}", *figures(check, one, found), verdict(is_explained(one, found)))
        if one.problem is not None:
            made.add_row(one.asked, *["–"] * (len(COLUMNS) - 1), verdict(None if not one.is_possible else False))
    return made


def kinds(one: TypeCheck) -> list[tuple[str, Deviation]]:
    """What was compared, by how its row goes on"""
    pairs = (("", one.texts), (", images", one.images))
    return [(name, found) for name, found in pairs if found is not None]


def figures(check: ModelCheck, one: TypeCheck, found: Deviation) -> list[str]:
    speed = one.tokens_per_second if found is one.texts else None
    return [
        f"{found.worst_cosine:.7f}",
        f"{found.mean_cosine:.7f}",
        f"{found.max_difference:.1e}",
        "" if speed is None else f"{speed:,.0f}",
        "" if speed is None else f"{speed / check.reference_tokens_per_second:.2g}",
    ]


def is_explained(one: TypeCheck, found: Deviation) -> bool:
    return found.is_explained(one.facts["dtype"])


def remarks(check: ModelCheck) -> list[str]:
    """What lies behind the table's rows"""
    said = [f"{one.asked}: {one.problem}" for one in check.types if one.problem is not None]
    for one in check.types:
        if one.texts is not None and not is_explained(one, one.texts):
            least = BROKEN_COSINE[one.facts["dtype"]]
            text = shortened(TEXTS[one.texts.worst])
            said.append(f"{one.facts['dtype']}: the cosine must be {least} or more; the worst is that of {text}")
    if check.token_differences:
        first = check.token_differences[0]
        said.append(f"{shortened(first.text)} has the tokens {first.ours} here, but {first.theirs} in AutoTokenizer")
    backends: dict[str, list[str]] = {}
    for one in check.types:
        if "backend" in one.facts:
            backends.setdefault(one.facts["backend"], []).append(one.facts["dtype"])
    return [*said, *(f"backend of {', '.join(dtypes)}: {backend}" for backend, dtypes in backends.items())]


def shortened(text: str) -> str:
    return repr(text if len(text) <= SHOWN_TEXT else text[:SHOWN_TEXT] + "…")


def verdict(passes: bool | None) -> Text:
    """None: not possible here"""
    if passes is None:
        return Text("not here", style="dim")
    return Text("PASS", style="bold green") if passes else Text("FAIL", style="bold red")


def as_json(check: ModelCheck) -> dict[str, Any]:
    spec = check.spec
    return {
        "model": spec.name,
        "model_type": spec.model_type,
        "folder": str(check.location.folder),
        "revision": check.location.revision,
        "max_length": spec.max_length,
        "reference": check.reference,
        "reference_tokens_per_second": check.reference_tokens_per_second,
        "passes": check.passes,
        "declarations": {
            name: {"ours": ours, "reference": theirs} for name, (ours, theirs) in check.declarations.items()
        },
        "texts": len(TEXTS),
        "token_differences": [asdict(difference) for difference in check.token_differences],
        "types": [
            {
                **asdict(one),
                "is_possible": one.is_possible,
                "passes": one.passes if one.is_possible else None,
                "smallest_cosine": BROKEN_COSINE.get(one.facts.get("dtype", one.asked)),
            }
            for one in check.types
        ],
    }
