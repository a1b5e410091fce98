"""From templates to pages that need nothing but themselves."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bids_gmvae import __version__

MEDIA = {".png": "image/png", ".svg": "image/svg+xml"}


def render_page(template: str, **content: Any) -> str:
    """Fill a template of this folder."""
    return environment().get_template(template).render(version=__version__, **content)


def environment() -> Environment:
    """Make the template engine: everything that is shown is escaped."""
    engine = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters["number"] = number
    engine.filters["percent"] = percent
    return engine


def number(value: float | None) -> str:
    """Write a number with three digits.

    Examples
    --------
    >>> number(0.00123456), number(1234.5), number(-0.5), number(None)
    ('0.00123', '1234', '−0.5', '–')
    """
    if value is None:
        return "–"
    text = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "−")


def percent(value: float | None) -> str:
    """Write a share in percent.

    Examples
    --------
    >>> percent(0.5), percent(0.00123), percent(0.0), percent(1e-6), percent(None)
    ('50%', '0.1%', '0%', '< 0.1%', '–')
    """
    if value is None:
        return "–"
    if 0 < value < 0.0005:
        return "< 0.1%"
    return f"{value:.1%}".replace(".0%", "%")


def embed(content: bytes, extension: str) -> Markup:
    """Give an image as a ``data:`` address.

    Examples
    --------
    >>> embed(b"ab", ".png")
    Markup('data:image/png;base64,YWI=')
    """
    return Markup(f"data:{MEDIA[extension]};base64,{base64.b64encode(content).decode()}")
