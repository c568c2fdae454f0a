import { backdrop } from "./backdrop.js";
import { button, element, line } from "./dom.js";
import { drawing } from "./drawing.js";
import { after, canvasChange } from "./host.js";
import { boxBetween, formatRegion, parseRegion } from "./region_format.js";

const HEIGHT = 230;
const SMALLEST_BOX = 0.01;
const NOTHING = { box: null, strokes: [] };

/** A box and brush strokes drawn on the first frame: the value of the node's `region` widget, in place of its text. */
export function regionView(node) {
  const widget = node.widgets?.find(({ name }) => name === "region");
  if (!widget) return null;
  widget.hidden = true; // the classic renderer reads this one, the Vue renderer the other
  widget.options.hidden = true;

  let tool = "box";
  let region = NOTHING;
  const earlier = []; // the widget's values before each change

  const boxTool = button("Box", "Draw a box", "lgvi-region-box", () => choose("box"));
  const strokeTool = button("Brush", "Draw with a brush", "lgvi-region-stroke", () => choose("stroke"));
  const width = element("input", {
    type: "range",
    min: 0.01,
    max: 0.3,
    step: 0.01,
    value: 0.08,
    title: "Brush width",
    "aria-label": "Brush width",
    "data-testid": "lgvi-region-width",
  });
  const undo = button("Undo", "Undo the last change", "lgvi-region-undo", () => write(earlier.pop()));
  const clear = button("Clear", "Remove the region", "lgvi-region-clear", () => change(NOTHING));
  const status = line("lgvi-message", { "data-testid": "lgvi-region-status" });
  const canvas = drawing((points, done) => {
    const next = withGesture(points);
    if (done && next !== region) change(next);
    else canvas.draw(next);
  });
  const background = backdrop(node, canvas.node, canvas.setRatio);
  const tools = element("div", { class: "lgvi-bar", role: "toolbar", "aria-label": "Region" });
  tools.append(boxTool, strokeTool, width, undo, clear);
  const root = element("div", { class: "lgvi-view", "data-testid": "lgvi-region", pointerenter: background.refresh });
  root.append(tools, background.node, status.node);

  function choose(name) {
    tool = name;
    boxTool.setAttribute("aria-pressed", tool === "box");
    strokeTool.setAttribute("aria-pressed", tool === "stroke");
  }

  /** The region with what the points draw; the same region where they draw nothing. */
  function withGesture(points) {
    if (!points.length) return region;
    if (tool === "stroke") return { ...region, strokes: [...region.strokes, { width: width.valueAsNumber, points }] };
    const box = boxBetween(points[0], points.at(-1));
    return Math.min(box[2], box[3]) < SMALLEST_BOX ? region : { ...region, box };
  }

  function change(next) {
    earlier.push(widget.value);
    write(formatRegion(next));
  }

  function write(text) {
    canvasChange(node, () => {
      widget.value = text;
      widget.callback(text);
    });
  }

  function read() {
    const stored = parseRegion(widget.value);
    region = stored ?? NOTHING;
    canvas.draw(region);
    canvas.node.setAttribute("aria-label", describe(region));
    if (stored) status.set(describe(region), "hint");
    else status.set("The stored region cannot be read. Draw a new one.", "error");
    undo.disabled = !earlier.length;
    clear.disabled = !widget.value;
  }

  after(widget, "callback", read);
  after(node, "onConfigure", () => {
    earlier.length = 0;
    read();
    requestAnimationFrame(background.refresh); // when the whole graph is there
  });
  after(node, "onConnectionsChange", () => requestAnimationFrame(background.refresh));
  choose("box");
  read();

  return {
    element: root,
    minHeight: () => HEIGHT,
    show: (output) => background.setFrame((output.lgvi_chat ?? output.lgvi_mask)?.[0]?.first_frame),
    destroy: background.destroy,
  };
}

function describe({ box, strokes }) {
  const parts = [];
  if (box) parts.push("a box");
  if (strokes.length) parts.push(strokes.length === 1 ? "1 stroke" : `${strokes.length} strokes`);
  return parts.length ? `Region: ${parts.join(" and ")}` : "No region: the whole frame counts";
}
