import { element, line, stage, svgElement } from "./dom.js";
import { fileURL } from "./host.js";
import { Player, videoElement } from "./player.js";

const EMPTY_HEIGHT = 48;
const FULL_HEIGHT = 340;

/** What will be removed: the overlay video, how much of each frame it covers, and a warning. */
export function maskView() {
  const video = videoElement({ class: "lgvi-media", "data-testid": "lgvi-mask-video" });
  const picture = stage(video);
  const spark = sparkline();
  const message = line("lgvi-message", { "data-testid": "lgvi-mask-message" });
  const player = new Player([video], {
    onFrame: (frame) => spark.mark(frame),
    onError: () => message.set("The preview could not be loaded. Run the node again.", "error"),
  });
  const full = element("div", { class: "lgvi-column", hidden: "" }, picture.node, player.element, spark.node);
  const root = element("div", { class: "lgvi-view", "data-testid": "lgvi-mask" }, full, message.node);
  message.set("Run to see what will be removed.", "hint");
  video.addEventListener("loadedmetadata", () => picture.setRatio(video.videoWidth / video.videoHeight));

  let shown = "";
  return {
    element: root,
    minHeight: () => (full.hidden ? EMPTY_HEIGHT : FULL_HEIGHT),
    show(output) {
      const data = output.lgvi_mask?.[0];
      if (!data || JSON.stringify(data) === shown) return;
      shown = JSON.stringify(data);
      full.hidden = false;
      message.set(data.message, "warning");
      spark.draw(data.area ?? []);
      player.load([fileURL(data.overlay)], data.frames, data.frame_rate);
    },
    destroy: () => player.destroy(),
  };
}

/** The mask's share of each frame as a filled curve, from zero to the largest share, with a mark at the frame shown. */
function sparkline() {
  const curve = svgElement("path", { class: "lgvi-curve" });
  const cursor = svgElement("line", { class: "lgvi-cursor", y1: 0, y2: 1 });
  const chart = svgElement("svg", { class: "lgvi-chart", preserveAspectRatio: "none", role: "img" }, curve, cursor);
  const text = element("output", { class: "lgvi-counter", "data-testid": "lgvi-mask-area" });
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  let area = [];
  return {
    node: element("div", { class: "lgvi-bar", "data-testid": "lgvi-mask-sparkline" }, chart, text),
    draw(shares) {
      area = shares;
      const top = Math.max(...area, 1e-6);
      const steps = area.map((share, i) => `V${1 - share / top}H${i + 1}`).join("");
      chart.setAttribute("viewBox", `0 0 ${Math.max(area.length, 1)} 1`);
      curve.setAttribute("d", `M0 1${steps}V1Z`);
      const title = `Mask area per frame, ${percent(Math.min(...area, top))} to ${percent(Math.max(...area, 0))}`;
      chart.setAttribute("aria-label", title);
    },
    mark(frame) {
      cursor.setAttribute("x1", frame + 0.5);
      cursor.setAttribute("x2", frame + 0.5);
      text.textContent = frame in area ? `area ${percent(area[frame])}` : "";
    },
  };
}
