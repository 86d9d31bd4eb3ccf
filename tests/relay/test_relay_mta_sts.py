"""MTA-STS from the record in the DNS, over the policy on a web server, to the certificate of the mail host."""

from __future__ import annotations

from relay_certificates import made
from relay_house import delivery
from test_relay_trust import LEAF, ROOT, SELF, Case, Witness
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data

from mailstack.mail.disposition import Action
from mailstack.mail.tls_results import TLSFailure
from mailstack.net.https import HTTPS
from mailstack.relay.policies import Policies
from mailstack.relay.settings import TLSPolicy
from mailstack.relay.tls import TLSContexts
from mailstack.testing.dns import FakeResolver

ZONE = """
    example.test MX 10 mx.test
    mx.test A 127.0.0.1
    mta-sts.example.test A 127.0.0.1
    _mta-sts.example.test TXT "v=STSv1; id=1"
"""
POLICY = b"version: STSv1\nmode: enforce\nmx: mx.test\nmax_age: 600\n"


class MTASTS(Case):
    def courier_with_policies(self, served, *, name="mta-sts.example.test"):
        known = Resource()
        known.putChild(b"mta-sts.txt", Data(POLICY, "text/plain"))
        root = Resource()
        root.putChild(b".well-known", known)
        site = Site(root)
        site.noisy = False
        port = reactor.listenSSL(0, site, made(name, ROOT).options(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        resolver, self.witness = FakeResolver(ZONE), Witness()
        https = HTTPS(reactor, resolver, is_allowed=lambda address: True, trust=ROOT.trust, port=port.getHost().port)

        def start(coroutine, what):
            return Deferred.fromCoroutine(coroutine)

        policies = Policies(resolver, https.get, reactor, start, maybeDeferred)
        contexts = TLSContexts(ROOT.trust)
        more = {"policies": policies, "witness": self.witness, "tls": TLSPolicy.DANE}
        return self.courier(served, resolver=resolver, contexts=contexts, **more)

    async def test_the_right_certificate_and_a_wrong_one(self):
        for shown, action in ((LEAF, Action.RELAYED), (SELF, Action.DELAYED)):
            served = self.serve(tls=shown.options())
            (only,) = await self.courier_with_policies(served).attempt(delivery())
            self.assertIs(only.action, action)
            self.assertEqual(self.witness.seen[0][:2], ("sts", "example.test"))

    async def test_a_policy_host_that_is_not_the_one(self):
        served = self.serve(tls=SELF.options())
        (only,) = await self.courier_with_policies(served, name="other.test").attempt(delivery())
        self.assertIs(only.action, Action.RELAYED)
        self.assertEqual(self.witness.seen, [("sts", "example.test", TLSFailure.STS_WEBPKI_INVALID)])
