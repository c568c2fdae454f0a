import { fileURL } from "./host.js";

const PICTURE = /\.(png|jpe?g|webp|gif|bmp|avif)$/i;
const VIDEO = /\.(mp4|m4v|mov|webm|mkv)$/i;
const FOLLOWED = ["IMAGE", "VIDEO", "*"];
const MAX_NODES = 32;

/** The nearest file that a loader upstream of the node has chosen: {url, video}, or null. */
export function upstreamFile(node) {
  const seen = new Set([node]);
  for (const current of seen) {
    const file = current !== node && chosenFile(current);
    if (file) return file;
    for (const [slot, input] of (current.inputs ?? []).entries()) {
      if (!String(input.type).split(",").some((type) => FOLLOWED.includes(type))) continue;
      const origin = current.getInputNode?.(slot);
      if (origin && seen.size < MAX_NODES) seen.add(origin);
    }
  }
  return null;
}

/** The file in a node's widgets, written "folder/name.png" or "folder/name.png [output]". */
function chosenFile(node) {
  for (const { value } of node.widgets ?? []) {
    const [, path, type] = String(value).match(/^(.*?)(?: \[(input|output|temp)\])?$/s);
    if (!PICTURE.test(path) && !VIDEO.test(path)) continue;
    const parts = path.split("/");
    const filename = parts.pop();
    return { url: fileURL({ filename, subfolder: parts.join("/"), type: type ?? "input" }), video: VIDEO.test(path) };
  }
  return null;
}
