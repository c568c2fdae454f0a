import { svgElement } from "./dom.js";

const HEIGHT = 1000; // units of the drawing; its width follows from the frame's shape
const SMALLEST_STEP = 0.004;

/**
 * A surface over the frame that shows a region and reports what the pointer draws.
 *
 * `onGesture(points, done)` gets the points so far, in fractions of the frame; none when the gesture was broken off.
 */
export function drawing(onGesture) {
  const box = svgElement("rect", { class: "lgvi-box" });
  const strokes = svgElement("g", { class: "lgvi-strokes" });
  let points = null;
  let ratio = 16 / 9;
  let shown = null;

  const node = svgElement(
    "svg",
    {
      class: "lgvi-canvas",
      preserveAspectRatio: "none",
      "data-testid": "lgvi-region-canvas",
      pointerdown(event) {
        if (event.button !== 0 || points) return;
        node.setPointerCapture(event.pointerId);
        points = [position(event)];
        onGesture(points, false);
      },
      pointermove(event) {
        const point = points && position(event);
        if (!point || distance(point, points.at(-1)) < SMALLEST_STEP) return;
        points.push(point);
        onGesture(points, false);
      },
      pointerup(event) {
        if (!points) return;
        if (distance(position(event), points.at(-1)) > 0) points.push(position(event));
        end(points);
      },
      pointercancel: () => points && end([]),
    },
    strokes,
    box,
  );

  function end(result) {
    points = null;
    onGesture(result, true);
  }

  function position(event) {
    const { left, top, width, height } = node.getBoundingClientRect();
    const clamp = (value) => Math.min(Math.max(value, 0), 1);
    return [clamp((event.clientX - left) / width), clamp((event.clientY - top) / height)];
  }

  function draw(region) {
    shown = region;
    const [width, height] = [HEIGHT * ratio, HEIGHT];
    node.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const [x, y, w, h] = region.box ?? [0, 0, 0, 0];
    for (const [name, value] of Object.entries({ x: x * width, y: y * height, width: w * width, height: h * height }))
      box.setAttribute(name, value);
    const lines = region.strokes.map((stroke) =>
      svgElement("polyline", {
        points: [...stroke.points, stroke.points.at(-1)].map(([px, py]) => `${px * width},${py * height}`).join(" "),
        "stroke-width": stroke.width * Math.min(width, height),
      }),
    );
    strokes.replaceChildren(...lines);
  }

  return {
    node,
    draw,
    setRatio(value) {
      ratio = value;
      if (shown) draw(shown);
    },
  };
}

function distance([x1, y1], [x2, y2]) {
  return Math.hypot(x1 - x2, y1 - y2);
}
