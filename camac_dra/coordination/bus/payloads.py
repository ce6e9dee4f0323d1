"""What becomes of messages on their way: bytes, or copies of plain values.

A message is a snapshot of the moment when it is sent. Most are one pickle of protocol 5 each; the buffers of
large arrays and tensors (from 64 KiB) are copied once and travel beside the pickle, uncopied. Of messages
that are sent together and hold nothing but plain values, a shallow copy is a snapshot already: they become
bytes as one pickle of all. Shards never look into messages: a run of messages is one opaque block to them.

Trust: decoding unpickles, so a bus is for parties that trust each other, as everything on one Ray cluster
must.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections import ChainMap
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from camac_dra.utils.errors import MessageError

OUT_OF_BAND_BYTES = 64 * 2**10  # below, one copy into the pickle is cheaper than a buffer of its own
RUN_BYTES = 512 * 2**10  # a run of messages ends where it exceeds this
_PLAIN = frozenset({str, int, float, bool, type(None), bytes})  # never changed by anybody


class Blob:
    """Bytes that go out of band when they are pickled with a buffer callback."""

    __slots__ = ("data",)

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, tuple[Any]]:
        return Blob, (pickle.PickleBuffer(self.data),)

    def __len__(self) -> int:
        return memoryview(self.data).nbytes


class Parcel(NamedTuple):
    """An encoded message with large buffers beside it, or with a time at which it expires."""

    head: bytes
    buffers: tuple[Blob, ...]
    expiry: float | None  # seconds since the epoch of ``time.time``


Payload: TypeAlias = bytes | Parcel | dict[str, Any]  # a dict holds plain values, and is nobody else's


class Batch(NamedTuple):
    """Messages of one sender for one recipient.

    ``block`` is all of them packed, where they are plain; ``payloads`` are the sender's own dicts then, to be
    counted or copied.
    """

    recipient: str
    payloads: Sequence[Payload]
    block: bytes | None

    def snapshots(self, start: int, stop: int | None = None) -> list[Payload]:
        """Return some of them as they were when they were packed."""
        return list(self.payloads[start:stop]) if self.block is None else unpack_block(self.block)[start:stop]


def pack_block(payloads: list[Payload]) -> Any:
    """Return the payloads of a run as one opaque block."""
    if any(isinstance(payload, Parcel) and payload.buffers for payload in payloads):
        return payloads
    return pickle.dumps(payloads, 5)


def unpack_block(block: Any) -> list[Payload]:
    """Return the payloads of a run."""
    return pickle.loads(block) if isinstance(block, bytes) else block


def encode(message: dict[str, Any], limit: int, expiry: float | None = None) -> Payload:
    """Return the message as it is now.

    Raises:
        MessageError: it is no dict, cannot be pickled, or takes more than ``limit`` bytes.
    """
    _check_dict(message)
    if expiry is None and _is_plain(message):
        head = pickle.dumps(message, 5)
        if len(head) > limit:
            raise MessageError(_too_large(len(head), limit))
        return head
    buffers: list[pickle.PickleBuffer] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < OUT_OF_BAND_BYTES:
            return True
        buffers.append(buffer)
        return False

    try:
        head = _dumps(message, keep_inside)
    except Exception as error:
        raise MessageError(
            f"message: must be what pickle can encode, got {_culprit(message)}: {error}"
        ) from error
    if not buffers and expiry is None:
        if len(head) > limit:
            raise MessageError(_too_large(len(head), limit))
        return head
    total = len(head) + sum(buffer.raw().nbytes for buffer in buffers)
    if total > limit:
        raise MessageError(_too_large(total, limit))
    return Parcel(head, tuple(Blob(bytes(buffer.raw())) for buffer in buffers), expiry)


def encode_many(
    items: Sequence[tuple[str, dict[str, Any]]], limit: int, expiry: float | None = None
) -> list[Batch]:
    """Return (recipient, message) pairs as they are now, neighbours with one recipient together.

    Raises:
        MessageError: as in ``encode``.
    """
    batches = []
    for recipient, group in groupby(items, _RECIPIENT):
        messages = [message for _, message in group]
        batch = _plain_batch(recipient, messages, limit) if expiry is None else None
        if batch is None:
            batch = Batch(recipient, [encode(message, limit, expiry) for message in messages], None)
        batches.append(batch)
    return batches


def _plain_batch(recipient: str, messages: list[dict[str, Any]], limit: int) -> Batch | None:
    """Return messages packed together, or None where one of them must be encoded by itself."""
    if len(messages) < 2 or {dict} != set(map(type, messages)):
        return None
    if not _PLAIN.issuperset(map(type, chain.from_iterable(messages))):
        return None
    if not _PLAIN.issuperset(map(type, chain.from_iterable(map(dict.values, messages)))):
        return None
    if len(set(map(id, messages))) < len(messages):
        messages = list(map(dict.copy, messages))  # what is sent twice arrives as two
    block = pickle.dumps(messages, 5)  # at least as long as each of its messages
    return Batch(recipient, messages, block) if len(block) <= min(limit, RUN_BYTES) else None


def decode(payload: Payload) -> dict[str, Any]:
    """Return the message. Arrays of 64 KiB and more are read-only views of what arrived; copy to write."""
    if isinstance(payload, bytes):
        return pickle.loads(payload)
    if isinstance(payload, dict):
        return payload.copy()
    head, buffers, _ = payload
    return pickle.loads(head, buffers=[memoryview(blob.data).toreadonly() for blob in buffers])


def decode_many(payloads: list[Payload]) -> list[dict[str, Any]]:
    """Return the messages."""
    if {dict} == set(map(type, payloads)):
        copy: Any = dict.copy
        return list(map(copy, payloads))
    return [decode(payload) for payload in payloads]


def size_of(payload: Payload) -> int:
    """Return about how many bytes a payload takes."""
    if isinstance(payload, bytes):
        return len(payload)
    if isinstance(payload, dict):
        return len(pickle.dumps(payload, 5))
    return len(payload.head) + sum(len(blob) for blob in payload.buffers)


def _check_dict(message: object) -> None:
    if not isinstance(message, dict):
        raise MessageError(f"message: must be a dict, got {type(message).__name__}")


def _is_plain(message: dict[str, Any]) -> bool:
    return (
        type(message) is dict
        and _PLAIN.issuperset(map(type, message.values()))
        and _PLAIN.issuperset(map(type, message))
    )


def _dumps(message: dict[str, Any], keep_inside: Any) -> bytes:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "Tensor"):
        return pickle.dumps(message, 5, buffer_callback=keep_inside)
    file = BytesIO()
    pickler = pickle.Pickler(file, 5, buffer_callback=keep_inside)
    pickler.dispatch_table = _TABLES.get(torch.Tensor) or _table(torch.Tensor)
    pickler.dump(message)
    return file.getvalue()


_RECIPIENT = itemgetter(0)
_TABLES: dict[type, Mapping[type, Any]] = {}


def _table(tensor_type: type) -> Mapping[type, Any]:
    return _TABLES.setdefault(tensor_type, ChainMap({tensor_type: _reduce_tensor}, copyreg.dispatch_table))


def _reduce_tensor(tensor: Any) -> tuple[Any, tuple[Any, ...]]:
    """Send a tensor as its numbers: detached, from the CPU, without torch's own storage format."""
    plain = tensor.detach().cpu().contiguous()
    name = str(plain.dtype).removeprefix("torch.")
    flat = (
        plain.reshape(-1).view(_torch().uint8) if plain.numel() else plain.new_empty(0, dtype=_torch().uint8)
    )
    return _rebuild_tensor, (flat.numpy(), name, tuple(plain.shape))


def _rebuild_tensor(flat: np.ndarray, name: str, shape: tuple[int, ...]) -> Any:
    torch = _torch()
    flat = flat if flat.flags.writeable else flat.copy()  # tensors know no read-only memory
    return torch.from_numpy(flat).view(getattr(torch, name)).reshape(shape)


def _torch() -> Any:
    import torch

    return torch


def _too_large(size: int, limit: int) -> str:
    return f"message: must take at most max_message_bytes = {limit:,} bytes, got {size:,}"


def _culprit(message: dict[str, Any]) -> str:
    """Return which entry of the message cannot be encoded."""
    for key, value in message.items():
        try:
            pickle.dumps((key, value), 5)
        except Exception:  # noqa: BLE001  whatever a user's __reduce__ raises
            return f"{key!r}: {type(value).__name__}"
    return "a dict"
