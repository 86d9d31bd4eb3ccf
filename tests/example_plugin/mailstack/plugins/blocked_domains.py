from mailstack.doors import Policy, PolicyPlugin, Transaction, Verdict, reject


class BlockedDomains(Policy):
    """Refuse mail from the domains that the configuration names."""

    def __init__(self, domains: list[str]) -> None:
        self.domains = frozenset(domains)

    def on_mail(self, transaction: Transaction) -> Verdict | None:
        sender = transaction.reverse_path
        if sender is not None and sender.domain in self.domains:
            return reject(f"We take no mail from {sender.domain}")
        return None


blocked_domains = PolicyPlugin("blocked-domains", BlockedDomains)
