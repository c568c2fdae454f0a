import { element, line, stage } from "./dom.js";
import { fileURL } from "./host.js";
import { Player, videoElement } from "./player.js";

const EMPTY_HEIGHT = 48;
const FULL_HEIGHT = 300;

/** The sampler's input and output on top of each other; a handle wipes between them. */
export function compareView() {
  const before = videoElement({ class: "lgvi-media", "data-testid": "lgvi-compare-before" });
  const after = videoElement({ class: "lgvi-media lgvi-after", "data-testid": "lgvi-compare-after" });
  const slider = element("input", {
    type: "range",
    class: "lgvi-wipe",
    min: 0,
    max: 100,
    step: 0.5,
    value: 50,
    title: "Drag to compare before and after",
    "aria-label": "Boundary between before and after",
    "data-testid": "lgvi-compare-slider",
    input: () => picture.node.style.setProperty("--lgvi-wipe", `${slider.value}%`),
  });
  const label = (text, side) => element("span", { class: `lgvi-label lgvi-${side}` }, text);
  const picture = stage(before, after, label("Before", "left"), label("After", "right"), slider);
  const message = line("lgvi-message", { "data-testid": "lgvi-compare-message" });
  const player = new Player([before, after], {
    onError: () => message.set("The comparison could not be loaded. Run the node again.", "error"),
  });
  const full = element("div", { class: "lgvi-column", hidden: "" }, picture.node, player.element);
  const root = element("div", { class: "lgvi-view", "data-testid": "lgvi-compare" }, full, message.node);
  message.set("Run to compare before and after here.", "hint");
  before.addEventListener("loadedmetadata", () => picture.setRatio(before.videoWidth / before.videoHeight));

  let shown = "";
  return {
    element: root,
    minHeight: () => (full.hidden ? EMPTY_HEIGHT : FULL_HEIGHT),
    show(output) {
      const data = output.lgvi_compare?.[0];
      if (!data || JSON.stringify(data) === shown) return;
      shown = JSON.stringify(data);
      full.hidden = false;
      message.set(data.message);
      player.load([fileURL(data.before), fileURL(data.after)], data.frames, data.frame_rate);
    },
    destroy: () => player.destroy(),
  };
}
