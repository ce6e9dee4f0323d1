"""What only time brings about in a process: idle credit, expired messages, answers that do not come."""

from __future__ import annotations

from camac_dra.coordination.bus.client_core import ClientCore
from camac_dra.coordination.bus.link import Link
from camac_dra.coordination.bus.outlet import Outlet

IDLE_SECONDS = 5.0  # after which credit that nobody uses goes back


def look_after(core: ClientCore, now: float, wall_time: float) -> None:
    """Give back idle credit; send back what has expired, and again what was sent back without an
    answer.
    """
    for shard, link in enumerate(core.links):
        with link.lock:
            woken = [_keep_outlet(link, outlet, now) for outlet in core.mine(core.outlets, shard)]
        if any(woken):
            core.wake(shard)
    for inbox in [*core.inboxes.values(), *core.closing.values()]:
        with inbox.lock:
            news = inbox.expire(wall_time) | inbox.repeat_bounces(now)
            fresh = news and not inbox.queued
            inbox.queued |= fresh
        if fresh:
            core.queue_inbox(inbox)
    for agent_id in [name for name, inbox in core.closing.items() if not inbox.bounces]:
        del core.closing[agent_id]


def _keep_outlet(link: Link, outlet: Outlet, now: float) -> bool:
    with outlet.lock:
        idle = outlet.lease > outlet.outstanding and now - outlet.last_used > IDLE_SECONDS
        amount = outlet.give_back() if idle and not outlet.waiting else 0
    if amount:
        link.returns.append((outlet.recipient, amount))
    return bool(amount)
