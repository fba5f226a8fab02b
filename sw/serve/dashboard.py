"""A dashboard of Grafana for ``/metrics``, of one server or of the front of several boards."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["ROWS", "dashboard"]


def _quantiles(histogram: str) -> tuple[tuple[str, str], ...]:
    """Queries of a histogram of seconds."""
    sums = f"sum by (le) (rate({histogram}_bucket[5m]))"
    return tuple((f"histogram_quantile({share / 100}, {sums})", f"p{share}") for share in (50, 95, 99))


#: Title, unit of Grafana, and queries with their legends. Only a front has the label of a board.
ROWS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Answer tokens a second", "short", (("sum by (board) (rate(hwgen_answer_tokens_total[1m]))", "{{board}}"),)),
    ("Prompt tokens a second", "short", (
        ("sum by (board) (rate(hwgen_prompt_tokens_total[1m]))", "asked {{board}}"),
        ("sum by (board) (rate(hwgen_reused_tokens_total[1m]))", "found in the cache {{board}}"),
    )),
    ("Answers", "short", (
        ("sum by (board) (hwgen_running)", "running {{board}}"), ("sum by (board) (hwgen_waiting)", "waiting {{board}}"),
    )),
    ("Time to first token", "s", _quantiles("hwgen_first_token_seconds")),
    ("Time between tokens", "s", _quantiles("hwgen_next_token_seconds")),
    ("Longest pass beside prompts, in passes of one token", "short", (("hwgen_time_between_tokens_bound", "estimated {{board}}"),)),
    ("Time of an answer", "s", _quantiles("hwgen_answer_seconds")),
    ("Time in passes", "percentunit", (("sum by (board, phase) (rate(hwgen_pass_seconds_total[1m]))", "{{phase}} {{board}}"),)),
    ("Cycles a pass", "short", (
        ("sum by (phase) (rate(hwgen_cycles_total[1m])) / sum by (phase) (rate(hwgen_passes_total[1m]))", "{{phase}}"),
    )),
    ("Power in passes", "watt", (
        ("sum by (board) (rate(hwgen_pass_joules_total[1m])) / sum by (board) (rate(hwgen_pass_seconds_total[1m]))", "{{board}}"),
    )),
    ("Energy of an answer token", "joule", (
        ("sum(rate(hwgen_pass_joules_total[5m])) / sum(rate(hwgen_answer_tokens_total[5m]))", "J a token"),
    )),
    ("Pages of the KV cache", "short", (
        ("sum by (board) (hwgen_kv_pages)", "all {{board}}"), ("sum by (board) (hwgen_kv_pages_free)", "free {{board}}"),
    )),
    ("Kept for reuse", "short", (("sum by (board) (hwgen_prefixes)", "sequences {{board}}"),)),
    ("Requests a second by status", "reqps", (("sum by (status) (rate(hwgen_requests_total[1m]))", "{{status}}"),)),
    ("Connections", "short", (
        ("sum by (board) (hwgen_connections)", "open {{board}}"),
        ("sum by (reason) (increase(hwgen_connections_closed_total[5m]))", "closed: {{reason}}"),
        ("sum(increase(hwgen_cancelled_total[5m]))", "answers whose client went away"),
    )),
    ("Device", "short", (
        ("sum by (board) (hwgen_device_failed)", "failed {{board}}"),
        ("sum by (board) (hwgen_device_reopened)", "opened anew {{board}}"),
    )),
    ("Model on the device", "short", (
        ("hwgen_model_on_device", "{{model}} {{board}}"), ("increase(hwgen_model_changes[5m])", "changes {{board}}"),
    )),
    ("Boards", "short", (("hwgen_board_up", "up {{board}}"), ("hwgen_board_busy", "asked {{board}}"))),
    ("Boards: what went wrong", "short", (
        ("increase(hwgen_board_retries_total[5m])", "asked elsewhere {{board}}"),
        ("increase(hwgen_board_broken_answers_total[5m])", "broken streams {{board}}"),
        ('sum(increase(hwgen_board_requests_total{status=~"5.."}[5m]))', "status 5xx"),
    )),
    ("Prompts read by other boards", "short", (
        ("sum by (result) (rate(hwgen_prefixes_moved_total[5m]))", "{{result}}"),
        ("rate(hwgen_prefix_bytes_total[5m])", "bytes a second"),
    )),
)

#: Columns of the grid of Grafana, of one panel, and rows of one.
GRID, WIDTH, HEIGHT = 24, 8, 8

#: The data source that is chosen when the dashboard is imported.
SOURCE = {"type": "prometheus", "uid": "${source}"}


def _panel(number: int, title: str, unit: str, queries: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    across = GRID // WIDTH
    return {
        "id": number + 1,
        "title": title,
        "type": "timeseries",
        "datasource": SOURCE,
        "gridPos": {"x": number % across * WIDTH, "y": number // across * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for i, (expression, legend) in enumerate(queries)
        ],
    }


def dashboard() -> str:
    """The JSON that Grafana (10 or newer) imports."""
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return json.dumps({
        "title": "hwgen serve",
        "uid": "hwgen-serve",
        "tags": ["hwgen"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [source]},
        "panels": [_panel(number, *row) for number, row in enumerate(ROWS)],
    }, indent=1) + "\n"
