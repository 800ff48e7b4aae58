"""Contexts as text: base64url without padding, as the command line shows and takes them."""

from __future__ import annotations

import base64
import binascii

from .errors import BadRequestError


def context_to_text(context: bytes) -> str:
    """A context as text."""
    return base64.urlsafe_b64encode(context).decode("ascii").rstrip("=")


def context_from_text(text: str) -> bytes:
    """A context from its text."""
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise BadRequestError("a context is base64url without padding") from None
