"""Summaries of the blocks of a session, by which a token chooses those that it attends to (`hwgen.block_choice`).

They are derived from the keys in the cache, and made when a coming pass can choose their blocks: once for every block. A block is
complete a whole block of tokens before it can be chosen, so a loop need not end where one is. Who writes keys again drops the
summaries of their blocks (`PagePool.reserve`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...block_choice import first_position, summary_pages
from ...config import BuildConfig
from ...descriptors import Format
from ...errors import HwgenError
from ...formats import quantised_keys, widen_bf16
from ...layout import KV_FORMATS
from ...rounding import ceil_div
from ..compiler.image import Image
from .kv_arrays import KvArrays, pack_pages, unpack_pages
from .pages import PagePool, Session
from .runs import Run

__all__ = ["check_budget", "loop_limit", "pages_looked_at", "summary_of", "update_summaries"]


def check_budget(config: BuildConfig, budget: int) -> None:
    """Refuse a budget of blocks that a build has not; 0 is none, which every build has."""
    if not budget:
        return
    if not config.kv_budget:
        raise HwgenError(
            "usage", "this build has no budget of blocks", "build with --set kv_budget=32, or leave the budget out"
        )
    if not 0 < budget <= config.kv_budget:
        raise HwgenError(
            "usage", f"a budget must be 1 to {config.kv_budget} blocks, as many as this build chooses, not {budget}",
            f"give {config.kv_budget} or fewer, or 0 for all blocks",
        )


def pages_looked_at(config: BuildConfig, run: Run, passes: int = 1) -> int:
    """Pages of summaries that a run needs, the first of so many passes of a loop."""
    if not run.budget or not run.choice(config):
        return 0
    return summary_pages(config, run.position + passes - 1)


def loop_limit(config: BuildConfig, run: Run, passes: int) -> int:
    """Passes of a loop that a run may be the first of, of so many. Whether it chooses does not change in a loop; and the last pass
    has no candidate that was not whole before the first.
    """
    if not run.budget:
        return passes
    position, block = run.position, config.kv_block
    if run.choice(config):
        return min(passes, (position // block + 2) * block - position)
    return min(passes, first_position(config, run.budget) - position)


def summary_of(image: Image, page: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """Means of the keys of a whole block, given its page ``[1, page_bytes]``, as keys: elements ``[layers, kv_heads, summary_rows,
    head_dim]`` and bits of the scales ``[layers, kv_heads, summary_rows]``. Keys of 4 bits are mixed in the cache, and so are
    their means.
    """
    arrays = unpack_pages(image, page, image.config.kv_block)
    keys = arrays.elements[0].astype(np.float32) * widen_bf16(arrays.scales[0])[..., None]
    rows = keys.reshape(*keys.shape[:2], image.config.summary_rows, -1, keys.shape[-1])
    total = rows[..., 0, :].copy()
    for slot in range(1, rows.shape[-2]):  # in this order on every computer
        total += rows[..., slot, :]
    return quantised_keys(total * np.float32(1 / rows.shape[-2]), Format.INT4_KEYS in KV_FORMATS[image.kv])


def _page_of(image: Image, blocks: list[tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]]) -> npt.NDArray[np.uint8]:
    """A page whose first key slots are the summaries of ``blocks``; its values are zeros, which nobody reads."""
    keys, scales = (np.concatenate(parts, axis=2) for parts in zip(*blocks, strict=True))
    return pack_pages(image, KvArrays(np.stack((keys, np.zeros_like(keys))), np.stack((scales, np.zeros_like(scales)))))


def update_summaries(image: Image, pool: PagePool, session: Session, stop: int) -> None:
    """Have summaries of the first ``stop`` blocks of a session in its pages of summaries, which are reserved: those that were not
    made yet are, block by block, and pages with new ones are written.
    """
    known, each = session.summaries, image.config.kv_block // image.config.summary_rows
    for block in range(len(known.blocks), stop):
        known.blocks.append(summary_of(image, pool.read([session.pages[block]])))
    if known.written < stop:
        for number in range(known.written // each, ceil_div(stop, each)):
            pool.write([known.pages[number]], _page_of(image, known.blocks[number * each : (number + 1) * each]))
        known.written = stop
