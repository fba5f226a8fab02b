"""A GGUF file of Q4_1 matrices with those of whole super-blocks (rows of a multiple of 256) as Q4_K, the others as they are.

    python tools/repack_q4_k.py ~/.local/share/hwgen/models/smollm2/*.gguf /tmp/smollm2-q4_k.gguf
    hwgen perplexity /tmp/smollm2-q4_k.gguf text.txt

Codes stay; scales and minimums are rounded to the six bits that Q4_K has for them, below a half-precision number of eight groups.
"""

from __future__ import annotations

import sys

import gguf
import numpy as np


def q4_k(data: np.ndarray, rows: int) -> np.ndarray:
    """Bytes of Q4_1 blocks ``[rows, bytes]`` as Q4_K blocks."""
    blocks = data.reshape(rows, -1, 8, 20)
    numbers = np.ascontiguousarray(blocks[..., :4]).view(np.float16).astype(np.float32)
    scale, minimum = numbers[..., 0], -numbers[..., 1]
    codes = np.concatenate((blocks[..., 4:] & 15, blocks[..., 4:] >> 4), axis=-1)
    negative = scale < 0  # d q + m = -d (15 - q) + m + 15 d
    codes = np.where(negative[..., None], 15 - codes, codes)
    minimum, scale = np.where(negative, minimum - 15 * scale, minimum), np.abs(scale)
    halves, sixes = [], []
    for values in (scale, minimum):
        largest = np.abs(values).max(axis=-1)
        sign = np.where(np.take_along_axis(values, np.abs(values).argmax(axis=-1)[..., None], -1)[..., 0] < 0, -1, 1)
        unit = (sign * largest / 63).astype(np.float16)
        halves.append(unit)
        divisor = np.where(unit == 0, 1, unit.astype(np.float32))[..., None]
        sixes.append(np.clip(np.rint(values / divisor), 0, 63).astype(np.uint8))
    d, m = sixes
    packed = np.concatenate(
        (d[..., :4] | d[..., 4:] >> 4 << 6, m[..., :4] | m[..., 4:] >> 4 << 6, d[..., 4:] & 15 | m[..., 4:] << 4), axis=-1
    )
    pairs = codes.reshape(*codes.shape[:2], 4, 2, 32)
    nibbles = (pairs[..., 0, :] | pairs[..., 1, :] << 4).reshape(*codes.shape[:2], 128).astype(np.uint8)
    front = np.stack(halves, axis=-1).view(np.uint8)
    return np.concatenate((front, packed.astype(np.uint8), nibbles), axis=-1).reshape(rows, -1)


def main(source: str, target: str) -> None:
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    changed = 0
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if kind.name == "Q4_1" and int(tensor.shape[0]) % 256 == 0:
            data, kind = q4_k(np.asarray(data), len(data)), gguf.GGMLQuantizationType.Q4_K
            changed += 1
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{changed} of {len(reader.tensors)} tensors are Q4_K now")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
