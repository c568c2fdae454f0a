/**
 * A region as the `region` widget keeps it:
 * {"box": [x, y, width, height], "strokes": [{"width": w, "points": [[x, y], ...]}]}.
 *
 * x and width are fractions of the frame's width, y and height of its height, a stroke's width of its shorter side.
 * No region is the empty text.
 */
const KEYS = ["box", "strokes"];
const DIGITS = 1e4;

/** The region in a text, or null when the text is not one. */
export function parseRegion(text) {
  if (!String(text ?? "").trim()) return { box: null, strokes: [] };
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    return null;
  }
  if (data?.constructor !== Object || !Object.keys(data).every((key) => KEYS.includes(key))) return null;
  const [box, strokes] = [data.box ?? null, data.strokes ?? []];
  const fits = (box === null || isNumbers(box, 4)) && Array.isArray(strokes) && strokes.every(isStroke);
  return fits ? { box, strokes } : null;
}

export function formatRegion({ box, strokes }) {
  const data = {};
  if (box) data.box = box;
  if (strokes.length) data.strokes = strokes;
  const rounded = (key, value) => (typeof value === "number" ? Math.round(value * DIGITS) / DIGITS : value);
  return box || strokes.length ? JSON.stringify(data, rounded) : "";
}

/** The box between two corners, in any order. */
export function boxBetween([x1, y1], [x2, y2]) {
  return [Math.min(x1, x2), Math.min(y1, y2), Math.abs(x1 - x2), Math.abs(y1 - y2)];
}

function isStroke(stroke) {
  const points = stroke?.points;
  if (!Number.isFinite(stroke?.width) || !Array.isArray(points) || !points.length) return false;
  return points.every((point) => isNumbers(point, 2));
}

function isNumbers(value, length) {
  return Array.isArray(value) && value.length === length && value.every(Number.isFinite);
}
