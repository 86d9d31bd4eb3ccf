"""Our own policies, through the same door as everybody's."""

from mailstack.doors import PolicyPlugin
from mailstack.policy.author import Author
from mailstack.policy.relaying import Relaying
from mailstack.policy.sender import Sender

author = PolicyPlugin("author", Author)
relaying = PolicyPlugin("relaying", Relaying)
sender = PolicyPlugin("sender", Sender)
