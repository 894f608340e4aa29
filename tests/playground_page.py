"""What the playground shows, as numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from playwright.sync_api import Page

HALF_A_DIGIT = 0.00501
"""The heat map's values have two digits."""


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def heat_values(page: Page) -> npt.NDArray[np.float64]:
    """float64 [n, n], once they are there"""
    page.locator(".heat").wait_for()
    rows = page.locator(".heat tbody tr").evaluate_all("rows => rows.map((r) => [...r.cells].map((c) => c.innerText))")
    return np.array([[number(text) for text in row[1:]] for row in rows])
