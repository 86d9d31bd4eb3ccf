"""What the receiver asks a realm of twisted.cred for."""

from __future__ import annotations

from zope.interface import Attribute, Interface


class ISubmitter(Interface):
    """Someone who may submit mail."""

    account: str = Attribute("The name of the account.")
