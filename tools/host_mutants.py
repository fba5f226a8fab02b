"""Faults for the host's code: where one can be planted, and the text with it. The operators are cosmic-ray's, applied to text.

Left out is what no test could or should find: annotations and aliases of types, what is there for type checkers alone, assertions,
texts of errors and of progress, and promises that change nothing (``frozen``, ``strict`` and their like). Strings stay as they are.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import parso
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

#: Families of operators by the kind of node that they change.
FAMILIES = {
    "operator": ("ReplaceBinaryOperator",), "comparison": ("ReplaceComparisonOperator",), "number": ("NumberReplacer",),
    "factor": ("ReplaceUnaryOperator",), "not_test": ("ReplaceUnaryOperator",), "if_stmt": ("AddNot",), "while_stmt": ("AddNot",),
    "test": ("AddNot",), "assert_stmt": ("AddNot",), "for_stmt": ("ZeroIterationForLoop",),
    "keyword": ("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceBreakWithContinue",
                "ReplaceContinueWithBreak"),
}
#: Leaves that no operator changes, and most leaves are such.
PLAIN = frozenset("()[]{}.,:=;") | {"->", ":=", "...", "@"}
#: Functions whose arguments are texts for people.
TELLING = frozenset({"print", "warn", "warning", "info", "debug", "exception", "say", "progress", "report"})
#: Arguments that promise something, and change nothing where the promise is kept.
PROMISES = frozenset({"frozen", "slots", "kw_only", "repr", "strict"})

Position = tuple[int, int]
Span = tuple[Position, Position]


@dataclass(frozen=True)
class Site:
    """One change that can be made to a module."""

    span: Span
    #: Family of the operator.
    kind: str
    operator: str
    #: Which of the places of the operator in the module.
    occurrence: int


@dataclass(frozen=True)
class HostMutant:
    """A module with one fault."""

    file: str
    line: int
    kind: str
    before: str
    after: str
    #: Lines of the statement, without those of statements inside.
    lines: tuple[int, int]
    text: str = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before} -> {self.after}"


def operators() -> dict[str, list[tuple[str, str, Any]]]:
    """By kind of node: family, name and operator."""
    provider = OperatorProvider()
    by_family: dict[str, list[tuple[str, str, Any]]] = {}
    for name in sorted(provider):
        family = name.partition("_")[0]
        if any(family in families for families in FAMILIES.values()):
            by_family.setdefault(family, []).append((family, name, provider[name]()))
    return {node: list(chain.from_iterable(by_family[family] for family in families)) for node, families in FAMILIES.items()}


def find_sites(source: str, known: Mapping[str, list[tuple[str, str, Any]]]) -> list[Site]:
    """Every change that can be made."""
    spans = sorted(left_out(source))
    counts: dict[str, int] = {}
    sites = []
    for node in ast_nodes(parso.parse(source)):
        if getattr(node, "value", None) in PLAIN:
            continue
        for family, name, operator in known.get(node.type, ()):
            for span in operator.mutation_positions(node):
                occurrence = counts.get(name, 0)
                counts[name] = occurrence + 1
                if not any(begin <= span[0] and span[1] <= end for begin, end in spans):
                    sites.append(Site(span, family, name, occurrence))
    return sites


def left_out(source: str) -> Iterator[Span]:
    """Spans in which nothing is changed."""
    lines = source.splitlines()

    def span(node: Any) -> Span:
        ends = ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset))
        (first, start), (last, stop) = ends  # columns of bytes
        return (first, len(lines[first - 1].encode()[:start].decode())), (last, len(lines[last - 1].encode()[:stop].decode()))

    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=ast.expr() as annotation):
                yield span(annotation)
            case ast.FunctionDef(returns=ast.expr() as returns) | ast.AsyncFunctionDef(returns=ast.expr() as returns):
                yield span(returns)
            case ast.Raise() | ast.Assert():
                yield span(node)
            case ast.If(test=test) if re.search(r"TYPE_CHECKING|__name__", ast.unparse(test)):
                yield span(node)
            case ast.keyword(arg=name) if name in PROMISES:
                yield span(node)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in TELLING:
                yield span(node)
            case ast.Assign(targets=[ast.Name(id="__all__")]):
                yield span(node)
            case ast.Assign(value=ast.BinOp(op=ast.BitOr()) as value) if names_types(value):
                yield span(value)


def names_types(node: ast.expr) -> bool:
    """Whether it is an alias like ``int | Sequence[str]``."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.BitOr) and names_types(node.left) and names_types(node.right)
    word = ast.unparse(node).partition("[")[0].rpartition(".")[2]
    return bool(re.fullmatch(r"None|int|str|float|bool|bytes|list|dict|tuple|[A-Z]+[a-z]\w*", word))


def statement_lines(source: str) -> dict[int, tuple[int, int]]:
    """First and last line of the statement that each line belongs to; of one with a body, its head."""
    found = {}
    for node in ast.walk(ast.parse(source)):  # outer statements come first
        if isinstance(node, ast.stmt):
            first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
            body = getattr(node, "body", None)
            last = max(first, body[0].lineno - 1) if body else node.end_lineno or first
            found.update(dict.fromkeys(range(first, last + 1), (first, last)))
    return found


def make(file: str, source: str, site: Site, known: Mapping[str, list[tuple[str, str, Any]]]) -> HostMutant | None:
    """The module with the change; None if it is none, or no Python."""
    operator = next(operator for family in known.values() for _, name, operator in family if name == site.operator)
    text = mutate_code(source, operator, site.occurrence)
    if text is None or text == source:
        return None
    try:
        compile(text, file, "exec")
    except SyntaxError:
        return None
    line = site.span[0][0]
    # a change of several lines into one moves what is below it
    removed = site.span[1][0] - line
    before = " ".join(part.strip() for part in source.splitlines()[line - 1 : line + removed])
    behind = len(text.splitlines()) - (len(source.splitlines()) - line - removed)
    after = " ".join(part.strip() for part in text.splitlines()[line - 1 : behind])
    return HostMutant(file, line, site.kind, before, after, statement_lines(source).get(line, (line, line)), text)


def draw(sources: Mapping[str, str], count: int, seed: int) -> list[HostMutant]:
    """Mutants of different lines, evenly over the modules: first a place, then what is done to it."""
    rng, known = random.Random(seed), operators()
    waiting: dict[str, list[list[Site]]] = {}
    for file, source in sorted(sources.items()):
        lines: dict[int, list[Site]] = {}
        for site in find_sites(source, known):
            lines.setdefault(site.span[0][0], []).append(site)
        waiting[file] = [lines[line] for line in sorted(lines)]
        rng.shuffle(waiting[file])
    order = sorted(waiting)
    rng.shuffle(order)
    chosen: list[HostMutant] = []
    while len(chosen) < count and any(waiting.values()):
        for file in order:
            if waiting[file] and len(chosen) < count:
                sites = waiting[file].pop()
                span = rng.choice(sorted({site.span for site in sites}))
                mutant = make(file, sources[file], rng.choice([site for site in sites if site.span == span]), known)
                chosen += [] if mutant is None else [mutant]
    return chosen
