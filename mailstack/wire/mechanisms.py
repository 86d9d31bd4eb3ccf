"""
Which mechanisms of SASL a session offers, the strongest first, since many clients take the first that they know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mailstack.wire.sasl import Exchange, ExternalExchange, LoginExchange, PlainExchange
from mailstack.wire.sasl_bearer import OAuthBearerExchange, XOAuth2Exchange
from mailstack.wire.scram import Bindings, ScramExchange


def offered_mechanisms(
    bindings: Bindings, *, scram: bool, external: bool = False, login: bool = True, token_scope: str | None = None
) -> Mapping[str, Callable[[], Exchange]]:
    """
    Return what begins an exchange of each mechanism, by name.

    Shape:  `scram`: the keys of users can be had; `bindings` is what is known of the TLS session, if it can be bound;
            `external`: the client has shown a certificate; `login`: LOGIN is offered beside PLAIN; `token_scope`: tokens of
            this scope are taken, of any when it is "", and none when it is None.
    """
    offered: dict[str, Callable[[], Exchange]] = {}
    if external:
        offered["EXTERNAL"] = ExternalExchange
    if scram and bindings:
        offered["SCRAM-SHA-256-PLUS"] = lambda: ScramExchange(bindings, plus=True)
    if scram:
        offered["SCRAM-SHA-256"] = lambda: ScramExchange(bindings, plus=False)
    offered["PLAIN"] = PlainExchange
    if login:
        offered["LOGIN"] = LoginExchange
    if token_scope is not None:  # last: who has a token asks for these, and who has a password must not
        offered["OAUTHBEARER"] = lambda: OAuthBearerExchange(token_scope)
        offered["XOAUTH2"] = lambda: XOAuth2Exchange(token_scope)
    return offered
