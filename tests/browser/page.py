"""ComfyUI's page as a user has it in front of them: load, drop, add, change, run, save."""

import json
from base64 import b64encode
from pathlib import Path

from playwright.sync_api import ElementHandle, Page, TimeoutError, expect

# The last clause waits for the default graph: arriving later, it would replace one that a test loaded.
STARTED = """() => window.app?.extensionManager && window.app.canvas
  && window.LiteGraph?.registered_node_types?.LGVILoader && window.app.graph?._nodes.length > 0"""
WATCH = """() => { window.endings = [];
  for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
    window.app.api.addEventListener(kind, (event) => window.endings.push([kind, event.detail])) }"""
DROP = """([name, base64, type, point]) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)), dataTransfer = new DataTransfer()
  dataTransfer.items.add(new File([bytes], name, { type }))
  const canvas = document.querySelector("#graph-canvas"), box = canvas.getBoundingClientRect()
  const [clientX, clientY] = point ?? [box.x + box.width / 2, box.y + box.height / 2]
  const target = point ? document.elementFromPoint(clientX, clientY) : canvas
  const options = { bubbles: true, cancelable: true, composed: true, dataTransfer, clientX, clientY }
  for (const step of ["dragenter", "dragover", "drop"]) target.dispatchEvent(new DragEvent(step, options)) }"""
EMPTY = {"nodes": [], "links": [], "groups": [], "config": {}, "extra": {}, "version": 0.4}
EMPTY |= {"last_node_id": 0, "last_link_id": 0}
NODE = "const node = window.app.graph._nodes.find((n) => [String(n.id), n.type].includes(String(which)));"


class ComfyPage:
    """The page with its graph. A node is named by its id or, where there is one of its kind, by its type.

    `page` is Playwright's own, `vue` says which renderer draws the nodes, `errors` collects what scripts threw.
    """

    def __init__(self, page: Page, url: str, vue: bool):
        self.page, self.url, self.vue = page, url, vue
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self) -> None:
        """Go to the page, or reload it, and wait until it can be used."""
        self.page.goto(self.url, wait_until="domcontentloaded")
        self.page.wait_for_function(STARTED, timeout=120_000)
        self.page.evaluate(WATCH)
        self.idle()

    def idle(self) -> None:
        """Wait until the mask that swallows input while a graph loads is gone and the canvas has been drawn."""
        self.page.wait_for_function("() => !document.querySelector('.p-blockui-mask')")
        self.page.evaluate("() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def load(self, workflow: dict) -> None:
        """Replace the graph by a workflow as the page saves it."""
        self.page.evaluate("async (w) => { await window.app.loadGraphData(w) }", workflow)
        self.page.wait_for_function("(n) => window.app.graph._nodes.length === n", arg=len(workflow["nodes"]))
        self.idle()

    def clear(self) -> None:
        """Replace the graph by an empty one."""
        self.load(EMPTY)

    def drop(self, file: Path, kind: str = "application/json", at: tuple[float, float] | None = None) -> None:
        """Drop a file at a point of the page, else on the canvas; what it does is for the caller to wait for."""
        self.page.evaluate(DROP, [file.name, b64encode(file.read_bytes()).decode(), kind, at])

    def saved(self) -> dict:
        """The graph as saving it would write it."""
        return json.loads(self.page.evaluate("() => JSON.stringify(window.app.graph.serialize())"))

    def types(self) -> list[str]:
        """The types of the nodes on the canvas."""
        return self.page.evaluate("() => window.app.graph._nodes.map((n) => n.type)")

    def widgets(self, which: str) -> dict:
        """The values of a node's widgets, by name."""
        script = f"(which) => {{ {NODE} return Object.fromEntries(node.widgets.map((w) => [w.name, w.value])) }}"
        return self.page.evaluate(script, which)

    def set_widget(self, which: str, name: str, value) -> None:
        """Give a widget a value and tell it so, as its own control does."""
        script = f"""([which, name, value]) => {{ {NODE} const widget = node.widgets.find((w) => w.name === name)
          widget.value = value; widget.callback?.(value, window.app.canvas, node) }}"""
        self.page.evaluate(script, [which, name, value])
        self.idle()

    def text_widget(self, which: str, name: str) -> ElementHandle:
        """The text area in which a user writes a node's widget; the node must be in view."""
        if self.vue:
            script = f"(which) => {{ {NODE} return String(node.id) }}"
            area = self.page.locator(f'[data-node-id="{self.page.evaluate(script, which)}"]').get_by_label(name).first
            return area.element_handle()
        script = f"([which, name]) => {{ {NODE} return node.widgets.find((w) => w.name === name).element }}"
        return self.page.evaluate_handle(script, [which, name]).as_element()

    def save(self, name: str) -> None:
        """Save the graph under a name, as the menu does; it is then `user/default/workflows/NAME.json`."""
        self.page.evaluate("() => { window.app.extensionManager.command.execute('Comfy.SaveWorkflow') }")
        field = self.page.get_by_role("dialog").get_by_role("textbox")
        field.fill(name)
        with self.page.expect_response(lambda answer: "/userdata/" in answer.url and answer.request.method == "POST"):
            field.press("Enter")
        self.idle()

    def in_node(self, which: str, x: float, y: float) -> tuple[float, float]:
        """Where on the page a point of a node is; x and y from the node's corner, in units of the graph."""
        script = f"""([which, x, y]) => {{ {NODE} const {{ ds, canvas }} = window.app.canvas
          const box = canvas.getBoundingClientRect()
          return [box.x + (node.pos[0] + ds.offset[0] + x) * ds.scale,
                  box.y + (node.pos[1] + ds.offset[1] + y) * ds.scale] }}"""
        return tuple(self.page.evaluate(script, [which, x, y]))

    def add(self, words: str, result: str, at: tuple[int, int]) -> None:
        """Search for `words` in the search box, take the result named `result` and put it where the canvas is empty."""
        box = self.page.get_by_placeholder("Add a node...")
        self._open_search(box, at)
        box.fill(words)
        found = self.page.get_by_test_id("result-item").filter(has_text=result).first
        expect(found).to_be_visible()
        before = len(self.types())
        found.click()
        self.page.wait_for_function("(n) => window.app.graph._nodes.length === n", arg=before + 1)
        self._put_down(at)

    def run(self, expect: str = "execution_success", limit: float = 300) -> dict:
        """Press Run and wait for the end; what the server said of it."""
        before = self.page.evaluate("() => window.endings.length")
        self.page.get_by_test_id("queue-button").click()
        self.page.wait_for_function("(n) => window.endings.length > n", arg=before, timeout=limit * 1000)
        kind, detail = self.page.evaluate("(n) => window.endings[n]", before)
        assert kind == expect, f"{kind}: {detail}"
        self.idle()
        return detail

    def complaints(self) -> str:
        """What the page reports as wrong with the graph: missing nodes, values, models; empty when all is well."""
        overlay = self.page.get_by_test_id("error-overlay")
        return overlay.inner_text() if overlay.count() else ""

    def _put_down(self, at: tuple[int, int]) -> None:
        """Take the newest node, which follows the pointer until a click but not from the first moment, to a point."""
        middle = """() => { const node = window.app.graph._nodes.at(-1), { ds, canvas } = window.app.canvas
          const left = canvas.getBoundingClientRect().x
          return left + (node.pos[0] + node.size[0] / 2 + ds.offset[0]) * ds.scale }"""
        for attempt in range(50):
            self.page.mouse.move(at[0], at[1] + attempt % 2)
            self.idle()
            if abs(self.page.evaluate(middle) - at[0]) < 10:
                self.page.mouse.click(*at)
                self.idle()
                if not self.page.evaluate("() => window.app.graph._nodes.at(-1).flags.ghost"):
                    return
        raise AssertionError(f"the new node could not be put down at {at}")

    def _open_search(self, box, at: tuple[int, int]) -> None:
        """Double click on the canvas; on a busy machine the two presses can come too far apart, so more than once."""
        for _ in range(5):
            self.page.mouse.dblclick(*at)
            try:
                box.wait_for(timeout=3000)
                return
            except TimeoutError:
                continue
        raise AssertionError("the search box did not open")
