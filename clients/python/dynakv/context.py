"""Contexts as text: base64url without padding, as the command line shows and takes them."""

from __future__ import annotations

import base64
import re

from .errors import BadRequestError

_BASE64URL = re.compile("[A-Za-z0-9_-]*")


def context_to_text(context: bytes) -> str:
    """A context as text."""
    return base64.urlsafe_b64encode(context).decode("ascii").rstrip("=")


def context_from_text(text: str) -> bytes:
    """A context from its text."""
    if not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        raise BadRequestError("a context is base64url without padding")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
