"""Limits, times and sizes that the host holds to. Some are facts of others (addresses, formats, what Linux does), some are choices;
who makes another choice changes it here too."""

from __future__ import annotations

import math

from hwgen.boards import RESOURCES
from hwgen.config import DIGITS_LARGEST, MAX_PORTS, MAX_READ_STREAMS, TRITS_PER_BYTE
from hwgen.sw.compiler.compile import HEADS
from hwgen.sw.compiler.file_sections import AHEAD, SECTOR, WORKERS
from hwgen.sw.compiler.image import CONSTANTS_BUFFER, LOOP_TABLE, ROWS
from hwgen.sw.compiler.image import WINDOW as IMAGE_WINDOW
from hwgen.sw.compiler.image_file import BLOCK, PREAMBLE
from hwgen.sw.compiler.placement import CMA_ALIGNMENT, FRAME_BYTES, LEAST_BUFFER, REGION_ALIGNMENT, SEGMENT_ALIGNMENT
from hwgen.sw.devices.board_checks import CLOCK_TOLERANCE, PYXRT_SINCE
from hwgen.sw.devices.device import WINDOW, Allocator
from hwgen.sw.devices.fabric_clock import ULTRASCALE_MHZ, ZYNQ_MHZ
from hwgen.sw.devices.loading import AFI_RESETS, ANSWER_SECONDS, RST_FPD_TOP
from hwgen.sw.devices.pass_stop import POLL_SECONDS, STOP_SECONDS
from hwgen.sw.devices.power import INTERVAL
from hwgen.sw.devices.pynq import SIMULATED_IDLE_CYCLES
from hwgen.sw.devices.pynq_library import WORD
from hwgen.sw.devices.pynq_memory import KEPT_BY_LINUX, LINE, LOW_MEMORY, REMOTE_BLOCK, REMOTE_LIMIT, SPARE_CMA
from hwgen.sw.devices.watch import CLOCK_TOLERANCE as WATCH_TOLERANCE
from hwgen.sw.devices.watch import CLOCK_UNCERTAINTY, IDLE_GRACE
from hwgen.sw.models.bitnet import TRITS_PER_PACKED_BYTE
from hwgen.sw.models.gguf_types import I2_S, PQ2_0, PTQ1_0, Q2_0, TILES
from hwgen.sw.models.sentence_piece import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from hwgen.sw.models.tensors import _LONGEST_HEADER
from hwgen.sw.runtime.candidate_draw import BLOCK as LOOKS
from hwgen.sw.runtime.candidate_draw import MOST
from hwgen.sw.runtime.device_turns import TURN_SHARE, WAIT_SECONDS
from hwgen.sw.runtime.document_passes import LOOKED_AT, SPAN
from hwgen.sw.runtime.documents import SHORTEST
from hwgen.sw.runtime.draft_model import LONGEST, DraftModel
from hwgen.sw.runtime.drafts import ALLOWANCE, DEBT, MEMORY, PromptLookup
from hwgen.sw.runtime.engine import COUNTED, NO_TOKEN, PASS_TIMEOUT
from hwgen.sw.runtime.prefix_cache import PrefixCache
from hwgen.sw.runtime.random_words import AHEAD as WORDS_AHEAD
from hwgen.sw.runtime.random_words import CLOSE
from hwgen.sw.runtime.random_words import WORD as HALF
from hwgen.sw.runtime.ranking import (
    COLDEST,
    FAR,
    FURTHER,
    LARGEST,
    LOWEST,
    NEAR,
    NOTHING,
    RESOLVED,
    ROUNDING,
    SMALLEST,
    _Ranking,
)
from hwgen.sw.runtime.ranking import COUNTED as POWERS
from hwgen.sw.runtime.ranking import LINE as OF_LINES
from hwgen.sw.runtime.sampler import _MOST as CANDIDATES
from hwgen.sw.runtime.sampling import _MOST, _PENALTY
from hwgen.sw.runtime.scheduler import FAILED_PASSES
from hwgen.sw.runtime.session_file import KV_BITS
from hwgen.sw.runtime.vector_tokens import PLACE

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def test_facts_of_processing_systems() -> None:
    """UG1087 (RST_FPD_TOP, AFI_FM0_RESET to AFI_FM5_RESET in bits 7 to 12), reference clocks, cache lines, XRT and Linux."""
    assert (RST_FPD_TOP, AFI_RESETS) == (0xFD1A0100, 0b1_1111_1000_0000) and (ULTRASCALE_MHZ, ZYNQ_MHZ) == (33.333, 50)
    assert (LINE, WORD, LEAST_BUFFER, CMA_ALIGNMENT, FRAME_BYTES) == (64, 2**32 - 1, 8 * KIB, MIB, 4 * KIB)
    assert (REMOTE_LIMIT, REMOTE_BLOCK) == (2 * GIB - 1, 4 * KIB)
    assert (LOW_MEMORY, KEPT_BY_LINUX, SPARE_CMA) == (2 * GIB, 200 * MIB, 32 * MIB)
    assert PYXRT_SINCE == (3, 1) and RESOURCES == ("lut", "lutram", "ff", "bram36", "uram", "dsp")


def test_facts_of_file_formats() -> None:
    """Numbers of GGUF types (llama.cpp and its forks), kinds of pieces of SentencePiece, the longest header of safetensors."""
    assert (I2_S, Q2_0, PQ2_0, PTQ1_0, TILES) == (36, 42, 142, 143, {38: "TL1", 39: "TL2"})
    assert (NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE) == (1, 2, 3, 4, 5, 6)
    assert (_LONGEST_HEADER, TRITS_PER_PACKED_BYTE, TRITS_PER_BYTE, DIGITS_LARGEST) == (100_000_000, 4, 5, 121)


def test_files_of_images() -> None:
    assert (PREAMBLE, BLOCK, SECTOR, WORKERS, AHEAD) == (24, MIB, 512, 2, 16 * MIB)
    assert (CONSTANTS_BUFFER, LOOP_TABLE, IMAGE_WINDOW, ROWS, WINDOW) == (64 * MIB, GIB, 4 * MIB, 4096, 16 * MIB)
    assert (REGION_ALIGNMENT, SEGMENT_ALIGNMENT, Allocator.STEP) == (4096, 256, 4096) and HEADS == ("exact", "shortlist")
    assert (MAX_PORTS, MAX_READ_STREAMS, KV_BITS) == (8, 4, (8, 4))


def test_times_of_devices() -> None:
    """A pass may take a minute and a stop ten seconds; clocks are believed to a percent, and wrong from three on."""
    assert (PASS_TIMEOUT, STOP_SECONDS, IDLE_GRACE, INTERVAL, WAIT_SECONDS) == (60, 10, 0.25, 0.1, 0.1)
    assert POLL_SECONDS == ANSWER_SECONDS == 0.001 and (CLOCK_UNCERTAINTY, WATCH_TOLERANCE, CLOCK_TOLERANCE) == (0.01, 0.03, 0.005)
    assert SIMULATED_IDLE_CYCLES == 400_000


def test_choices_of_the_host() -> None:
    assert (NO_TOKEN, COUNTED, PLACE, HALF, CANDIDATES) == (2**24 - 1, 14 + 11, -1, 32, 63)
    assert (_MOST, _PENALTY, FAILED_PASSES, TURN_SHARE, PrefixCache.LIMIT) == (100, 2, 3, 4, 256)
    # documents: eight tokens or more, spans of eight, two layers looked at; drafts: eight tokens of a model
    assert (SHORTEST, SPAN, LOOKED_AT, LONGEST) == (8, 8, 2, 8) and (LOOKS, MOST) == (4096, 8192)
    # a draft may cost a fiftieth of a pass before it has saved anything, and two passes of the large model where a model guesses
    assert (DEBT, ALLOWANCE, MEMORY) == (0.02, 0.002, 0.97)
    assert (PromptLookup.debt, PromptLookup.takes_passes, DraftModel.debt, DraftModel.takes_passes) == (0.02, False, 2, True)


def test_bounds_of_rankings() -> None:
    """Facts of float32 and of lines in place of powers, and powers of e that looks are cut into."""
    assert (LARGEST, SMALLEST) == ((2 - 2**-23) * 2.0**127, 2.0**-149)
    most = 2 / (math.e * math.log(2))  # how much too large 1 + x is for 2^x
    assert most < OF_LINES < most + 1e-4 and math.exp(-LOWEST) < NOTHING == 1e-30 and COLDEST == 1e-200
    assert (NEAR, FURTHER, FAR, POWERS, CLOSE, WORDS_AHEAD) == (12, 4, 32, (4, 2), 6, 4096)
    assert (ROUNDING, RESOLVED) == (3e-4, 1e-3)
    of = _Ranking
    assert (of.HEAD, of.FEW, of.RANGES, of.TOKENS, of.DEPTH) == (8, 256, 4096, 4, 50)
