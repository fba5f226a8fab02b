"""What callers of images and their passes may leave out, and what they get then."""

from __future__ import annotations

from hwgen.sw.compiler.compile import compile_model, plan_image, plan_model
from hwgen.sw.compiler.file_sections import sector_checksum
from hwgen.sw.compiler.head_parameters import load_parameters
from hwgen.sw.compiler.image import Image
from hwgen.sw.compiler.layers import Panel
from hwgen.sw.compiler.pass_costs import PassCosts
from hwgen.sw.compiler.pass_model import PassModel, Ring
from hwgen.sw.compiler.placement import plan_scratch
from tests.test_defaults import Default, check_defaults

DEFAULTS: list[Default] = [
    (Panel, {"row_scales": (0, 0)}), (load_parameters, {"layer": 0, "flags": 0, "buffers": 0}), (plan_scratch, {"biases": 0}),
    (compile_model, {"name": "model", "head": "exact"}), (plan_image, {"name": "model", "head": "exact"}),
    (plan_model, {"head": "exact"}), (Image.memory_bytes, {"spare": 2**20}), (sector_checksum, {"before": 0}),
    (PassCosts.cycles, {"blocks": 0}), (PassModel, {"head": "exact", "kv": "k8v8", "engine": "ternary"}),
    (PassModel.run, {"wanted": 1, "budget": 0}), (PassModel.run_runs, {"budgets": ()}), (Ring, {"step": 256}),
]


def test_defaults() -> None:
    check_defaults(DEFAULTS)
