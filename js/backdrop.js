import { element, line, stage } from "./dom.js";
import { fileURL } from "./host.js";
import { upstreamFile } from "./upstream.js";
import { videoElement } from "./player.js";

const HINT = "No frame yet: connect a loader or run once to draw on the picture.";

/**
 * The first frame under a drawing: of the last run, before that of the file chosen in a loader upstream, else an
 * empty 16:9 field.
 *
 * `onRatio(ratio)` is told the frame's width / height.
 */
export function backdrop(node, overlay, onRatio) {
  const image = element("img", { class: "lgvi-media", alt: "", draggable: "false", hidden: "" });
  const video = videoElement({ class: "lgvi-media", hidden: "" });
  const hint = line("lgvi-empty");
  const picture = stage(image, video, hint.node, overlay);
  let frame = null; // the file of the last run
  let shown = null;

  const ready = (media, width, height) => {
    media.hidden = false;
    hint.set("");
    picture.setRatio(width / height);
    onRatio(width / height);
  };
  const clear = () => {
    image.hidden = video.hidden = true;
    image.removeAttribute("src");
    video.removeAttribute("src");
    hint.set(HINT, "hint");
  };
  image.addEventListener("load", () => ready(image, image.naturalWidth, image.naturalHeight));
  video.addEventListener("loadeddata", () => ready(video, video.videoWidth, video.videoHeight));
  for (const media of [image, video]) media.addEventListener("error", giveUp);

  /** The file is gone or of a kind that no browser shows. */
  function giveUp() {
    clear();
    frame = null;
    refresh();
  }

  function refresh() {
    const source = frame ? { url: fileURL(frame), video: false } : upstreamFile(node);
    if (source?.url === shown) return;
    shown = source?.url;
    clear();
    if (source) (source.video ? video : image).src = source.url;
  }

  clear();
  return {
    node: picture.node,
    refresh,
    setFrame(file) {
      if (file) frame = file;
      refresh();
    },
    destroy() {
      clear();
      video.load();
    },
  };
}
