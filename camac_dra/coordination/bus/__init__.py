"""The machinery of the message bus.

Layout: state machines without I/O, threads or clocks (``outlet``, ``inbox``, ``client_core``; ``mailbox``,
``latest``, ``shard``), what they exchange (``wire``), and what carries it (``local``, ``ray_link``,
``shard_actor``). Whatever a shard's actor imports stays free of torch and RLlib, so that a killed one is
back soon.
"""
