"""The machinery of the message bus.

Layout: state machines without I/O or clocks (``outlet``, ``inbox``, ``link``, ``client_core``, ``upkeep`` per
process; ``mailbox``, ``latest``, ``shard`` in the middle), what they exchange (``wire``), what carries it
(``local``, ``ray_carrier``, ``shard_actor``), the calls that wait (``client``), and the disk (``journal``).
Whatever a shard's actor imports stays free of torch and RLlib, so that a killed one is back soon.
"""
