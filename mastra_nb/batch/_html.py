"""The page of a report: one file, no scripts, what failed first."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from mastra_nb.batch._rows import MARKS, BatchRow, money, names_of, rank, short

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
:root { --fg: #1c1e21; --soft: #5c6370; --bg: #fff; --line: #d9dce1; --head: #f4f5f7;
  --good: #1a7f37; --bad: #c4232b; --wait: #8a5a00; --link: #0b5fc0; }
@media (prefers-color-scheme: dark) { :root { --fg: #e6e7ea; --soft: #a3a9b5; --bg: #16181c;
  --line: #363b44; --head: #20242a; --good: #5bc873; --bad: #ff7b80; --wait: #e3b341;
  --link: #7db7ff; } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 90rem; padding: 1.5rem; background: var(--bg); color: var(--fg);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.4rem; margin: 0 } p { margin: .3rem 0 1rem; color: var(--soft) }
.wide { overflow-x: auto } a { color: var(--link) }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid var(--line); padding: .4rem .6rem; text-align: left;
  vertical-align: top }
th { background: var(--head); position: sticky; top: 0 } td.n { text-align: right;
  font-variant-numeric: tabular-nums }
.done { color: var(--good) } .failed, .over_budget { color: var(--bad) }
.suspended, .stopped, .pending { color: var(--wait) }
.status { white-space: nowrap; font-weight: 600; font-variant-emoji: text }
td.runs { font-size: .8em; overflow-wrap: anywhere; min-width: 9rem }
pre { margin: .2rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85em;
  max-width: 50rem } .hint { color: var(--soft) }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ about }}</p>
<div class="wide"><table>
<thead><tr><th scope="col">#</th><th scope="col">status</th>
{%- for name in params %}<th scope="col">{{ name }}</th>{% endfor -%}
{%- for name in values %}<th scope="col">{{ name }}</th>{% endfor -%}
<th scope="col">cost</th><th scope="col">seconds</th><th scope="col">runs</th></tr></thead>
<tbody>
{% for row in rows -%}
<tr><td class="n">{{ row.index + 1 }}</td>
<td><span class="status {{ row.status }}">{{ marks[row.status] }} {{ row.status.replace("_", " ") }}
</span>{% if row.output %} <a href="{{ link(row) }}">notebook</a>{% endif %}
{%- if row.error %}<pre>{{ row.error }}</pre>{% endif %}
{%- if row.hint %}<pre class="hint">→ {{ row.hint }}</pre>{% endif %}</td>
{%- for name in params %}<td>{{ short(row.params.get(name)) }}</td>{% endfor -%}
{%- for name in values %}<td>{{ short(row.values.get(name)) }}</td>{% endfor -%}
<td class="n">{{ money(row.cost) }}</td><td class="n">{{ "%.1f" % row.seconds }}</td>
<td class="runs">{{ row.runs | join(" ") }}</td></tr>
{% endfor -%}
</tbody></table></div>
</body>
</html>
"""


def page(title: str, about: str, rows: Sequence[BatchRow], folder: Path) -> str:
    """`folder` is where the page will be: links are relative to it."""
    import jinja2

    def link(row: BatchRow) -> str:
        try:
            path = Path(os.path.relpath(row.output, folder)).as_posix()
        except ValueError:  # another drive
            return Path(row.output).as_uri()
        return quote(path)

    made = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return made.from_string(_PAGE).render(
        title=title,
        about=about,
        rows=sorted(rows, key=rank),
        params=names_of(row.params for row in rows),
        values=names_of(row.values for row in rows),
        marks=MARKS,
        link=link,
        money=money,
        short=short,
    )
