"""Where each tensor of a program lies in one block of memory, so that what is no longer needed is used again."""

import dataclasses
from collections.abc import Callable, Sequence

ALIGNMENT = 16
"""Every place is a multiple of this many bytes, for hardware that loads vectors."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What a step needs.

    Attributes:
        size: bytes of its result; None if it needs no memory, as constants that are read where they are.
        inputs: positions of the earlier steps that it reads.
        shares: an input whose memory already is the result.
        overwrites: inputs in whose place the result may be written, if no later step needs them: an element of the
            result needs the same element of theirs and none before it.
        from_start: whether the result is there before the first step.
    """

    size: int | None
    inputs: tuple[int, ...] = ()
    shares: int | None = None
    overwrites: tuple[int, ...] = ()
    from_start: bool = False


@dataclasses.dataclass(frozen=True)
class Arena:
    """A block of memory.

    Attributes:
        places: offset in bytes of each result; None where it needs none.
        size: bytes of the block.
        least: bytes that are in use at the busiest step; no placement needs fewer.
    """

    places: tuple[int | None, ...]
    size: int
    least: int


@dataclasses.dataclass
class _Span:
    """Bytes in use from one step to another, both included."""

    size: int
    start: int
    end: int

    def meets(self, other: "_Span") -> bool:
        return self.start <= other.end and other.start <= self.end


_Buffer = list[int]  # the results that lie at one place, one after the other or at once
_ORDERS: tuple[Callable[[list[_Span]], tuple], ...] = (
    lambda spans: (-max(span.size for span in spans), spans[0].start),
    lambda spans: (-sum(span.size * (span.end - span.start + 1) for span in spans), spans[0].start),
    lambda spans: (spans[0].start, -max(span.size for span in spans)),
)
_TRIES = 20


def plan(requests: Sequence[Request]) -> Arena:
    """Returns places for all results such that none overwrites what a later step reads; the last one is kept.

    Greedy: the buffers, largest first (or by bytes times steps, or by first use), each at the lowest offset that is
    free while it is needed. What then lies highest is placed first in another try, until nothing is wasted or a few
    tries are over; the best of all is taken.
    """
    spans = _spans(requests)
    buffers = _buffers(requests, spans)
    of = [[spans[number] for number in buffer] for buffer in buffers]
    least = _least(of, len(requests))
    best, size = [0] * len(buffers), None
    for key in _ORDERS:
        order = sorted(range(len(buffers)), key=lambda index, key=key: key(of[index]))
        for _ in range(_TRIES):
            places, ends = _placed(of, order)
            if size is None or max(ends) < size:
                best, size = places, max(ends)
            highest = ends.index(max(ends))
            order = [highest, *(index for index in order if index != highest)]
            if size == least:
                break
    offsets: list[int | None] = [None] * len(requests)
    for buffer, place in zip(buffers, best, strict=True):
        for number in buffer:
            offsets[number] = place
    return Arena(tuple(offsets), size or 0, least)


def _spans(requests: Sequence[Request]) -> list[_Span]:
    spans = [
        _Span(request.size or 0, -1 if request.from_start else number, number)
        for number, request in enumerate(requests)
    ]
    for number, request in enumerate(requests):
        for index in request.inputs:
            spans[index].end = number
    spans[-1].end = len(requests)
    return spans


def _buffers(requests: Sequence[Request], spans: list[_Span]) -> list[_Buffer]:
    """Joins results that may lie at the same place."""
    found: list[_Buffer] = []
    holder: dict[int, _Buffer] = {}
    for number, request in enumerate(requests):
        if request.size is None:
            continue
        chosen = holder.get(request.shares) if request.shares is not None else None
        for index in request.overwrites:
            buffer = holder.get(index)
            if chosen is None and buffer is not None:
                unused = all(spans[other].end <= number for other in buffer)
                chosen = buffer if unused and request.size <= spans[index].size else None
        if chosen is None:
            chosen = []
            found.append(chosen)
        chosen.append(number)
        holder[number] = chosen
    return found


def _placed(buffers: list[list[_Span]], order: list[int]) -> tuple[list[int], list[int]]:
    """Places buffers in an order; returns where each begins and ends."""
    places, ends = [0] * len(buffers), [0] * len(buffers)
    done: list[tuple[int, _Span]] = []
    for index in order:
        taken = [  # at an offset strictly between, it would overlap something in use
            (place - own.size, place + other.size)
            for place, other in done
            for own in buffers[index]
            if own.meets(other) and own.size and other.size
        ]
        place = 0
        for before, after in sorted(taken):
            if before < place < after:
                place = -(-after // ALIGNMENT) * ALIGNMENT
        places[index], ends[index] = place, place + max(span.size for span in buffers[index])
        done += [(place, span) for span in buffers[index]]
    return places, ends


def _least(buffers: list[list[_Span]], steps: int) -> int:
    """Returns the bytes in use at the busiest step."""
    in_use = [0] * (steps + 2)
    for spans in buffers:
        for time in range(min(span.start for span in spans), max(span.end for span in spans) + 1):
            in_use[time + 1] += max((span.size for span in spans if span.start <= time <= span.end), default=0)
    return max(in_use)
