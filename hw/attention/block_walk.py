"""Where the loading of blocks of keys and values is."""

from __future__ import annotations

from amaranth.hdl import Const, Signal
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..interfaces import index_bits
from .item import AttentionSizes

__all__ = ["BlockWalk"]


class BlockWalk:
    """Where loading is: run, block, part of it and beat; and whether there is room for another."""

    def __init__(self, config: BuildConfig, sizes: AttentionSizes, dim_bits: int) -> None:
        block_bits = (config.kv_block - 1).bit_length()
        self.buffer = Signal((sizes.buffers - 1).bit_length())
        #: All buffers are in use.
        self.full = Signal(name="full")
        self.head = Signal(bits_for(config.max_kv_heads))
        #: The next block begins another head, another run.
        self.next_head, self.next_run = Signal(), Signal()
        self.run = Signal(index_bits(config.chunk))
        #: Number of the last head; a cycle later: the run is the last one.
        self.last_head, self.last_run = Signal(bits_for(config.max_kv_heads)), Signal()
        #: Of the run: bank of its first token and its position; where that lies in its block, and less the bank; blocks of a head
        #: behind the first one, and blocks with tokens of the run behind the first of those (one, or none); blocks in the ring.
        self.bank, self.position = Signal(bits_for(config.chunk)), Signal(bits_for(config.max_context))
        self.tokens = Signal(bits_for(config.chunk))
        self.begins, self.turn = Signal(block_bits), Signal(block_bits)
        self.later = Signal(bits_for(config.max_pages))
        self.crossing = Signal()
        self.past = Signal(bits_for(config.max_pages))
        #: Slots before ``begins``.
        self.before = Signal(config.kv_block)
        #: Blocks still to come of this head (ATTENTION) or of the operator (HEAD), beside the present one; of this head's in the
        #: ring, with it.
        self.blocks_left = Signal(sizes.block_bits)
        self.past_left = Signal(bits_for(config.max_pages))
        #: The present block has tokens of the run, whose part comes from the store; and a part in the ring.
        self.has_own, self.has_past = Signal(), Signal()
        self.step = Signal(range(sizes.head_dims))
        self.last_step = Signal(range(sizes.head_dims))
        #: Beats since the last multiple of ``groups``.
        self.phase = Signal(index_bits(config.groups))
        self.aligned = Signal()
        # "$signal" is Amaranth's name for a signal without one; given where the Verilog has it.
        self.in_header, self.in_keys, self.in_values, self.in_padding = (Signal(name="$signal") for _ in range(4))
        #: HEAD: beats from here on into the queue, and those that were written there.
        self.queued, self.offered = (Signal(range((sizes.buffers << dim_bits) + 1), name=n) for n in ("$signal", "offered"))
        #: Keys are taken: of HEAD, the queue has room, whatever came in the cycle before.
        self.room = Signal()
        self.begin, self.wanted, self.accept, self.last = (Signal(name="$signal") for _ in range(4))
        #: The scales of a block may pour once those before have: its buffer, and the first key whose scales are the store's.
        self.pouring = Signal(name="pouring")
        self.pour_buffer, self.pour_own = Signal(len(self.buffer)), Signal(range(config.kv_block + 1))
        #: Keys, and values, are kept two elements a byte; the beat that is asked for is.
        self.packed_keys, self.packed_values, self.packed = (
            (Signal(name=name) if config.int4_kv else Const(0)) for name in ("packed_keys", "packed_values", "packed")
        )
