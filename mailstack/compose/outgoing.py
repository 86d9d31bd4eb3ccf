"""
Outgoing mail: the couriers by which it leaves the spool, for our own maildirs as for other hosts.

A reload puts another relay in the place of the one that there was, whose sessions end with what they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mailstack.compose import chance
from mailstack.compose.machine import Machine
from mailstack.compose.outside import Outside
from mailstack.compose.refused import refused_in
from mailstack.compose.relaying import relay_settings
from mailstack.compose.secrets import Secrets
from mailstack.deliver.local import LocalCourier
from mailstack.net.cache_folder import CacheFolder
from mailstack.net.own_addresses import OwnAddresses
from mailstack.net.prompt import PromptTCP
from mailstack.net.tls import Pem, identity
from mailstack.relay.by_transport import TransportCourier
from mailstack.relay.connect import Connector
from mailstack.relay.courier import RelayCourier
from mailstack.relay.memory import TLSMemory
from mailstack.relay.policies import Policies
from mailstack.relay.ports import ReturnPath, TLSWitness
from mailstack.relay.protocol import Surroundings
from mailstack.relay.settings import RelaySettings
from mailstack.relay.tls import TLSContexts
from mailstack.route.transport import TransportMap
from mailstack.settings import Relay, Settings


@dataclass(frozen=True, slots=True)
class Way:
    """How mail leaves until a reload says otherwise."""

    relay: RelayCourier
    settings: RelaySettings
    transports: TransportMap


class Outgoing:
    """
    The courier for every destination.

    Shape:   `local` delivers to accounts; `return_path` says from whom what an alias leads elsewhere goes on; `witness` is told
             of TLS with other hosts.
    Raises:  RefusedError: as `prepare`.
    """

    def __init__(
        self,
        settings: Settings,
        secrets: Secrets,
        machine: Machine,
        local: LocalCourier,
        *,
        return_path: ReturnPath,
        witness: TLSWitness | None,
    ) -> None:
        self._machine = machine
        self._return_path = return_path
        self._witness = witness
        way = self.prepare(settings, secrets)
        self._relay = way.relay
        self.courier = TransportCourier(local, way.relay, way.settings, way.transports)

    def prepare(self, settings: Settings, secrets: Secrets) -> Way:
        """
        Make what `change` puts into force.

        Raises:  RefusedError: there is no nameserver, or our certificate is no good.
        """
        relaying = relay_settings(settings.relay, settings.queue, secrets)
        return Way(self._make_relay(settings, relaying, secrets.relay_pem), relaying, settings.transports)

    def change(self, way: Way) -> None:
        """Let mail leave in this way from now on."""
        self._machine.supervisor.start(self._relay.close(), "ending the sessions of the relay")
        self._relay = way.relay
        self.courier.relay, self.courier.settings, self.courier.transports = way.relay, way.settings, way.transports

    def forget_hosts(self) -> None:
        """Ask every host again, also those that could not be used a moment ago."""
        self._relay.forget_hosts()

    async def close(self) -> None:
        """End the sessions that wait for more mail."""
        await self._relay.close()

    def _make_relay(self, settings: Settings, relaying: RelaySettings, pem: Pem | None) -> RelayCourier:
        machine, start, run_in_thread = self._machine, self._machine.supervisor.start, self._machine.disk.run
        outside = Outside(settings.relay, machine.reactor)
        with refused_in("relay"):
            contexts = TLSContexts(identity=_identity(settings.relay, pem))
        # What other domains publish about TLS (MTA-STS), and who has been seen to offer it; both survive a restart.
        published, seen = CacheFolder(settings.folder / "mta-sts"), CacheFolder(settings.folder / "tls-hosts")
        patience_seconds = settings.relay.tls_patience_seconds
        return RelayCourier(
            settings.hostname,
            outside.resolver,
            Connector(PromptTCP(machine.reactor), relaying.connect_timeout_seconds),
            Surroundings(
                clock=machine.reactor,
                start=start,
                run_in_thread=run_in_thread,
                timeouts_seconds=relaying.timeouts_seconds,
                make_nonce=chance.nonce,
            ),
            chance.shuffled,
            settings=relaying,
            return_path=self._return_path,
            is_ourselves=OwnAddresses([(each.host, each.port) for each in settings.listen.smtp]),
            contexts=contexts,
            policies=Policies(outside.resolver, outside.https.get, machine.reactor, start, run_in_thread, published),
            witness=self._witness,
            memory=TLSMemory(patience_seconds, machine.reactor, start, run_in_thread, seen) if patience_seconds else None,
        )


def _identity(relay: Relay, pem: Pem | None) -> dict[str, Any]:
    """Return what we show to hosts that ask who we are."""
    if pem is None or relay.client_certificate is None or relay.client_key is None:
        return {}
    return identity(relay.client_certificate, relay.client_key, pem)
