from __future__ import annotations

import builtins
import io
import json
import os
import socket
import sys
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mastra_nb.errors import ConfigError, NotFound, SchemaError
from mastra_nb.rag import readers
from mastra_nb.rag.documents import Document
from mastra_nb.rag.loading import load
from mastra_nb.rag.readers import decoded, read_document, suffix_of
from mastra_nb.testing import no_network


async def names(*sources: Any, **options: Any) -> list[str]:
    return sorted(Path(d.source).name for d in await load(*sources, **options))


async def test_a_folder_gives_what_people_would_read(tmp_path: Path) -> None:
    for name in ("a.md", "sub/b.txt", ".hidden", ".git/c.md", "node_modules/d.js", "venv/e.py",
                 "own/pyvenv.cfg", "own/f.py", "new\nline.md"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "unknown").write_bytes(b"abc\0def")
    assert await names(tmp_path) == ["a.md", "b.txt", "new\nline.md"]
    found = await load(tmp_path)
    assert [d.source for d in found] == sorted(d.source for d in found)
    assert found.failed == ()


async def test_patterns_lists_tables_and_documents(tmp_path: Path) -> None:
    for name in ("a.md", "sub/b.md", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    for link in ("sub/up", "sub/again"):
        (tmp_path / link).symlink_to(tmp_path)
    assert await names(f"{tmp_path}/**/*.md") == ["a.md", "b.md"]
    assert await names(f"{tmp_path}/**") == ["a.md", "b.md", "c.txt"]
    frame = pd.DataFrame({"text": ["one", "two"]})
    found = await load([tmp_path / "c.txt", frame], Document("x"))
    assert len(found) == 4 and found[3].source.startswith("text-")


async def test_links_do_not_lead_out_and_cycles_end(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("key")
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (home / "a.txt").write_text("a")
    (home / "out.txt").symlink_to(secret)
    (home / "up").symlink_to(tmp_path)
    (home / "sub" / "again").symlink_to(home)
    (home / "self").symlink_to(home / "self")
    (home / "same.txt").symlink_to(home / "a.txt")
    assert await names(home) == ["a.txt", "same.txt"]
    assert await names(f"{home}/*.txt") == ["a.txt", "same.txt"]
    # A user may name a link himself, but not out of a root.
    assert await names(home / "out.txt") == ["out.txt"]
    with pytest.raises(ConfigError, match="leads out"):
        await load("out.txt", root=home)


@pytest.mark.parametrize("path", ["../secret.txt", "/etc/passwd", "sub/../../secret.txt"])
async def test_nothing_leaves_the_root(tmp_path: Path, path: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "secret.txt").write_text("key")
    with pytest.raises(ConfigError, match="leads out"):
        await load(path, root=tmp_path / "home")
    (tmp_path / "home" / "a.txt").write_text("a")
    (found,) = await load("a.txt", root=tmp_path / "home")
    assert found.text == "a"
    for pattern in ("../*.txt", f"{tmp_path}/*.txt"):
        with pytest.raises((ConfigError, NotFound)):
            await load(pattern, root=tmp_path / "home")


async def test_what_is_no_source_says_so(tmp_path: Path) -> None:
    for bad, match in (("a\0b", "no path"), ("", "no path"), (3, "is no source of documents"),
                       ("some text to index", "there is no"), (b"x", "bytes")):  # fmt: skip
        with pytest.raises((ConfigError, NotFound), match=match):
            await load(bad)


async def test_one_bad_file_does_not_stop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("fine")
    (tmp_path / "b.txt").write_text("x" * 1000)
    (tmp_path / "c.docx").write_bytes(b"PK\x03\x04 damaged")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as place:
        # The path of a socket has 107 bytes at most.
        monkeypatch.chdir(tmp_path)
        place.bind("place")
        found = await load(tmp_path, max_bytes=100)
    assert [d.text for d in found] == ["fine"]
    assert {Path(f.source).name: f.why for f in found.failed}.keys() == {"b.txt", "c.docx"}
    (one,) = (await load(tmp_path / "pipe")).failed
    assert "no ordinary file" in one.why


async def test_a_folder_that_may_not_be_read_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").write_text("a")
    real = os.scandir

    def scan(path: Path) -> Any:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)
    found = await load(tmp_path)
    assert len(found) == 1
    assert [(f.source, f.why) for f in found.failed] == [
        ((tmp_path / "closed").as_posix(), "Permission denied")
    ]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("é".encode(), "é"),
        (b"\xef\xbb\xbfa", "a"),
        ("é".encode("utf-16"), "é"),
        ("é".encode("utf-32"), "é"),
        (b"caf\xe9 \x80", "café €"),
        (b"a\r\nb\rc", "a\nb\nc"),
        (b"\x81\x8d", "\x81\x8d"),
        (b'<meta charset="iso-8859-5">\xb0', '<meta charset="iso-8859-5">А'),
    ],
)
def test_encodings(data: bytes, text: str) -> None:
    assert decoded(data) == text


def test_what_holds_zero_bytes_is_no_text() -> None:
    with pytest.raises(SchemaError, match="zero bytes"):
        decoded(b"a\0b", "x.txt")


def test_a_notebook_is_read_cell_by_cell() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Owls\n", "text"]},
        {"cell_type": "code", "source": "print(1)", "outputs": [
            {"output_type": "stream", "text": ["\x1b[31m1\x1b[0m\n"]},
            {"output_type": "display_data", "data": {"image/png": "x", "text/plain": "plot"}},
            "odd",
        ]},
        {"cell_type": "raw", "source": "", "odd": {}},
        {"cell_type": "code", "source": "x = 2"},
    ]  # fmt: skip
    raw = json.dumps({"cells": cells, "metadata": {"language_info": {"name": "python"}}})
    found = read_document(raw.encode(), "a.ipynb", suffix="ipynb")
    assert found.kind == "notebook" and [p.no for p in found.places] == [1, 2, 4]
    assert "```python\nprint(1)\n```\n\n```text\n1\n\nplot\n```" in found.text
    chunk = found.chunk(max_size=30)[-1]
    assert (chunk.place, chunk.headings) == ("cell 4", ("Owls",))
    for broken in (b"{}", b'{"cells": 3}', b"[", b'{"cells": [{"source": {}}]}'):
        assert read_document(broken, "a.ipynb", suffix="ipynb").kind == "text"


def test_a_table_in_a_file_is_read_row_by_row() -> None:
    found = read_document(
        b'name,says\nowl,"hoo, hoo"\n,\nduck,quack,extra\n', "a.csv", suffix="csv"
    )
    assert found.text == "name: owl\nsays: hoo, hoo\n\nname: duck\nsays: quack\nextra"
    assert [p.no for p in found.places] == [1, 2]
    assert read_document(b"a\tb\n1\t2\n", "a.tsv", suffix="tsv").text == "a: 1\nb: 2"
    assert read_document(b"only,names", "a.csv", suffix="csv").kind == "text"


def test_code_knows_its_language_and_broken_json_is_text() -> None:
    assert read_document(b"x = 1", "a.py", suffix="py").metadata == {"language": "python"}
    assert read_document(b"fn x() {}", "a.rs", suffix="rs").metadata == {"language": "rust"}
    assert read_document(b"{", "a.json", suffix="json") == Document("{", "a.json")
    deep = b"[" * 100_000
    assert read_document(deep, "a.json", suffix="json").kind == "text"


def test_suffixes() -> None:
    assert suffix_of("docs/A.MD") == "md"
    assert suffix_of("a.b/c") == ""
    assert suffix_of("download", "application/pdf") == "pdf"
    assert suffix_of("page.html", "text/plain") == "html"


def archive(sizes: list[int]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for i, size in enumerate(sizes):
            made.writestr(f"xl/{i}.xml", b"0" * size)
    return out.getvalue()


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readers, "MAX_UNPACKED", 1_000_000)
    with pytest.raises(SchemaError, match="unpacks to 1,200,000 bytes"):
        read_document(archive([600_000, 600_000]), "a.xlsx", suffix="xlsx")


def test_an_epub_is_read_without_the_network() -> None:
    """The one office format for which markitdown needs nothing more."""
    out = io.BytesIO()
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="content.opf"/></rootfiles></container>'
    )
    package = (
        '<package xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>Owls</dc:title>'
        '</metadata><manifest><item id="a" href="a.xhtml"/></manifest>'
        '<spine><itemref idref="a"/></spine></package>'
    )
    page = "<html><body><h1>Owls</h1><img src='http://127.0.0.1:9/x.png'/><p>hunt</p></body></html>"
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("META-INF/container.xml", container)
        made.writestr("content.opf", package)
        made.writestr("a.xhtml", page)
    with no_network():
        found = read_document(out.getvalue(), "a.epub", suffix="epub")
    assert "# Owls" in found.text and "hunt" in found.text and found.kind == "markdown"


async def test_an_extra_that_is_missing_fails_the_file_and_says_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "markitdown", None)
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "b.txt").write_text("text")
    found = await load(tmp_path)
    assert len(found) == 1 and 'pip install "mastra-nb[rag]"' in found.failed[0].why


def pdf(*pages: str) -> bytes:
    kids = " ".join(f"{3 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
    ]
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    for i, text in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents {4 + 2 * i} 0 R "
            f"/Resources << /Font << /F1 {font} >> >> >>"
        )
        shown = f"BT /F1 18 Tf 20 100 Td ({text}) Tj ET"
        objects.append(f"<< /Length {len(shown)} >>\nstream\n{shown}\nendstream")
    out, at = "%PDF-1.4\n", []
    for no, one in enumerate(objects, 1):
        at.append(len(out))
        out += f"{no} 0 obj\n{one}\nendobj\n"
    table = "".join(f"{o:010d} 00000 n \n" for o in at)
    end = f"xref\n0 {len(at) + 1}\n0000000000 65535 f \n{table}trailer << /Size {len(at) + 1} "
    return (out + end + f"/Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF").encode()


def test_a_pdf_knows_its_pages() -> None:
    with no_network():
        found = read_document(pdf("Owls hunt mice.", "Ducks swim."), "a.pdf", suffix="pdf")
    chunks = found.chunk(max_size=15)
    assert [(c.text, c.place) for c in chunks] == [
        ("Owls hunt mice.", "page 1"),
        ("Ducks swim.", "page 2"),
    ]
    assert found.kind == "text" and len(found.places) == 2


def test_slides_and_sheets() -> None:
    import openpyxl
    import pptx

    show, out = pptx.Presentation(), io.BytesIO()
    for title in ("Owls", "Ducks"):
        show.slides.add_slide(show.slide_layouts[0]).shapes.title.text = title
    show.save(out)
    slides = read_document(out.getvalue(), "a.pptx", suffix="pptx")
    assert {c.place for c in slides.chunk(max_size=8)} == {"slide 1", "slide 2"}
    book, out = openpyxl.Workbook(), io.BytesIO()
    book.active.append(["name", "says"])
    book.active.append(["owl", "hoo"])
    book.save(out)
    sheet = read_document(out.getvalue(), "a.xlsx", suffix="xlsx")
    assert "| owl | hoo |" in sheet.text


def test_a_document_does_not_bring_other_files_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that a .docx only links to is not opened."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"not to be read")
    out, base = io.BytesIO(), "http://schemas.openxmlformats.org/"
    kind = f"{base}officeDocument/2006/relationships"
    names = (
        f'xmlns:w="{base}wordprocessingml/2006/main" xmlns:r="{kind}" '
        f'xmlns:a="{base}drawingml/2006/main" xmlns:pic="{base}drawingml/2006/picture" '
        f'xmlns:wp="{base}drawingml/2006/wordprocessingDrawing"'
    )
    picture = (
        '<w:r><w:drawing><wp:inline><wp:docPr id="1" name="x"/><a:graphic><a:graphicData><pic:pic>'
        '<pic:blipFill><a:blip r:link="rId9"/></pic:blipFill></pic:pic></a:graphicData></a:graphic>'
        "</wp:inline></w:drawing></w:r>"
    )
    body = f"<w:body><w:p><w:r><w:t>Owls</w:t></w:r>{picture}</w:p></w:body>"
    package = f"{base}package/2006"
    with zipfile.ZipFile(out, "w") as made:
        made.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{package}/content-types"><Override PartName="/word/document.xml" '
            'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document'
            '.main+xml"/></Types>',
        )
        for path, id, what, target, mode in (
            ("_rels/.rels", "rId1", "officeDocument", "word/document.xml", "Internal"),
            ("word/_rels/document.xml.rels", "rId9", "image", secret.as_uri(), "External"),
        ):
            made.writestr(
                path,
                f'<Relationships xmlns="{package}/relationships"><Relationship Id="{id}" '
                f'Type="{kind}/{what}" Target="{target}" TargetMode="{mode}"/></Relationships>',
            )
        made.writestr("word/document.xml", f"<w:document {names}>{body}</w:document>")
    opened: list[str] = []
    real = builtins.open

    def watched(file: Any, *args: Any, **options: Any) -> Any:
        opened.append(str(file))
        return real(file, *args, **options)

    monkeypatch.setattr(builtins, "open", watched)
    with no_network():
        found = read_document(out.getvalue(), "a.docx", suffix="docx")
    assert found.text == "Owls" and not [name for name in opened if "secret" in name]


def test_a_pdf_that_is_none_is_not_indexed_as_its_bytes() -> None:
    with pytest.raises(SchemaError, match="is damaged"):
        read_document(b"%PDF-1.4 garbage", "a.pdf", suffix="pdf")
