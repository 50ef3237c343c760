"""The version of this distribution.

The part before ``+`` is the release whose interface is offered, so that a plugin asking for
``livekit-agents>=1.8.9`` accepts it. The local part says that this is an independent implementation.
"""

__version__ = "1.8.9+boundedclose.1"
