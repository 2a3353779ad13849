"""A workflow's picture: in the cell that defines it, after a run, and in the saved notebook."""

from __future__ import annotations

from nbconvert import HTMLExporter
from playwright.sync_api import expect

from tests.browser.lab import Lab, Theme

DEFINE = """\
%load_ext mastra_nb
from mastra_nb import Workflow, step


@step
def pages(text: str) -> list[int]:
    return list(range(12))


@step(on_error="collect")
def half(page: int) -> int:
    if page == 7:
        raise ValueError("<img src=x onerror=canary(1)>")
    return page // 2


@step
def count(halves: list) -> int:
    return len(halves)


halves = Workflow(name="halves", input=str).then(pages).foreach(half, concurrency=4).then(count)
halves
"""
RUN = 'await halves.run("a")'
_SIZES = """pictures => pictures.map(picture =>
    [picture.viewBox.baseVal.width, picture.getBoundingClientRect().width])"""
_IMAGES = """images => Promise.all(images.map(async image => {
    await image.decode();
    return [image.naturalWidth, image.clientWidth];
}))"""


def test_pictures_show_in_the_cell_and_in_the_saved_notebook(lab: Lab) -> None:
    path = lab.server.write("pictures.ipynb", [DEFINE, RUN])
    themes: tuple[Theme, Theme] = ("light", "dark")
    for kernel, theme in zip((True, False), themes, strict=True):
        if kernel:
            notebook = lab.open(path, theme=theme)
            notebook.run_all()
            notebook.save(forget_kernel=True)
        else:
            lab.server.shutdown_kernels()
            notebook = lab.open(path, kernel=False, theme=theme)
        for cell in (0, 1):
            output = notebook.output(cell)
            for fold in output.locator("details").all():
                fold.evaluate("e => e.open = true")
            expect(output.locator("img")).to_have_count(0)
            sizes = output.locator(".mnb-Graph > svg").evaluate_all(_SIZES)
            assert len(sizes) == 1
            assert all(0 < shown <= wide for wide, shown in sizes)
            names = output.locator(".mnb-Graph-name").all_text_contents()
            assert names == ["pages", "half", "count"]
        bars = notebook.output(1).locator(".mnb-Timeline-body")
        assert bars.count() >= 3
        assert all(box["width"] > 0 for bar in bars.all() if (box := bar.bounding_box()))
        expect(notebook.output(1)).to_contain_text("<img", use_inner_text=True)
        notebook.screenshot(f"workflow_{theme}")
    with lab.server.disabled("@mastra-nb/labextension"):
        plain = lab.open(path, kernel=False)
        for cell, pictures in ((0, 1), (1, 2)):
            output = plain.output(cell)
            for fold in output.locator("details").all():
                fold.evaluate("e => e.open = true")
            sizes = output.locator("img").evaluate_all(_IMAGES)
            assert len(sizes) == pictures
            assert all(0 < shown <= wide for wide, shown in sizes)
    page, _ = HTMLExporter().from_filename(str(path))
    assert page.count('src="data:image/svg+xml;base64,') == 3
