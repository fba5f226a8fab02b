"""The table of what passes cost, against the model that it is made with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwgen.boards import load_board
from hwgen.published import published_model
from hwgen.rounding import ceil_div
from hwgen.sw.compiler.compile import plan_image
from hwgen.sw.compiler.image import Image
from hwgen.sw.compiler.pass_costs import PassCosts, pass_costs, table_sizes
from hwgen.sw.compiler.pass_model import PassModel
from hwgen.sw.models.random_model import sized_model

CONFIG = load_board("kv260").config
SHAPE = replace(published_model("bitnet-0.73b").shape, layers=6, vocab=4096)


@pytest.fixture(scope="module")
def image() -> Image:
    return plan_image(CONFIG, sized_model(SHAPE, "ternary"))  # type: ignore[arg-type]  # sizes are all that is asked of them


@pytest.fixture(scope="module")
def costs(image: Image) -> PassCosts:
    return pass_costs(image)


@pytest.mark.parametrize(
    ("runs", "wanted"), [([(0, 1)], 1), ([(300, 1)], 1), ([(128, 1)] * 6, 6), ([(128, 1)] * 5 + [(64, 9)], 5), ([(0, 24)], 1)]
)
def test_cycles_are_those_of_the_model(costs: PassCosts, runs: list[tuple[int, int]], wanted: int) -> None:
    """Six layers of which four are walked; sizes between those of the table; runs with cached keys."""
    expected = PassModel(CONFIG, SHAPE).run_runs(runs, wanted).cycles
    blocks = sum(ceil_div(position, CONFIG.kv_block) for position, _ in runs)
    near = 0.05 if len(runs) == 1 else 1 / 12
    assert costs.cycles(sum(count for _, count in runs), wanted, blocks) == pytest.approx(expected, rel=near)


def test_more_tokens_never_cost_less(costs: PassCosts, image: Image) -> None:
    cycles = [costs.cycles(n, 1) for n in range(1, image.chunk + 1)]
    assert cycles == sorted(cycles) and costs.cycles(3, 3) >= costs.cycles(3, 1) > costs.cycles(3, 0) - 1
    assert costs.cycles(1, 1, 10) == costs.cycles(1, 1) + 10 * costs.block


def test_what_the_table_has_is_exact_where_all_layers_are_walked() -> None:
    image = plan_image(CONFIG, sized_model(replace(SHAPE, layers=2), "ternary"))  # type: ignore[arg-type]  # likewise
    model = PassModel.of_program(CONFIG, image.descriptors, image.chunk)
    costs, blocks = pass_costs(image), ceil_div(image.context, CONFIG.kv_block)
    assert costs.cycles(1, 1) == model.run(1, 0).cycles
    assert costs.cycles(1, 1, blocks) == model.run(1, blocks * CONFIG.kv_block).cycles
    size = costs.sizes[-2]
    assert costs.cycles(size, size) == model.run(size, 0, wanted=size).cycles


def test_every_size_is_that_of_a_new_sequence() -> None:
    """Queries that share keys take longer than the keys: a cached position more is another figure."""
    shape = replace(published_model("bitnet-2b4t").shape, layers=1, vocab=512)
    image = plan_image(CONFIG, sized_model(shape, "ternary"))  # type: ignore[arg-type]  # likewise
    model, costs = PassModel.of_program(CONFIG, image.descriptors, image.chunk), pass_costs(image)
    assert list(costs.plain) == [model.run(n, 0, wanted=1).cycles for n in costs.sizes]
    assert list(costs.wanting) == [model.run(n, 0, wanted=n).cycles for n in costs.sizes]


def test_table_has_both_sides_of_every_round() -> None:
    assert table_sizes(6, 24) == (1, 2, 6, 7, 12, 13, 18, 19, 24) and table_sizes(1, 2) == (1, 2) and table_sizes(8, 1) == (1,)


def test_an_image_that_has_them_is_not_walked(image: Image, costs: PassCosts) -> None:
    kept = replace(image, stored_costs=tuple(costs.to_list()), descriptors=())  # type: ignore[arg-type]  # a list of a file
    assert pass_costs(kept) == costs
