/** Everything the views need of the page: files, widgets on a node, and the output of a run. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const WIDGET_MARGIN = 10; // the classic renderer keeps this much free on each side of a widget
const NODE_WIDTH = 340; // of a new node; a workflow has its own
const viewsOf = new WeakMap(); // node -> its views

/** The address of a file that the server told of: {filename, subfolder, type}. */
export function fileURL({ filename, subfolder = "", type = "temp" }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

export function loadStyle() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./style.css", import.meta.url).href;
  document.head.append(link);
}

/** Runs `callback` after the method of that name that an object has or lacks, with the same arguments. */
export function after(object, method, callback) {
  const original = object[method];
  object[method] = function (...args) {
    const result = original?.apply(this, args);
    callback(...args);
    return result;
  };
}

/**
 * Puts views on a node, as widgets below its own that no workflow stores.
 *
 * `makers` maps a widget name to a function of the node that gives a view, or null where the node has no use for it.
 * A view is `{element, minHeight(), show(output), destroy()}`. Where the page has no DOM widgets nothing changes.
 */
export function attachViews(node, makers) {
  if (typeof node.addDOMWidget !== "function") return;
  const views = [];
  for (const [name, make] of Object.entries(makers)) {
    const view = make(node);
    if (!view) continue;
    views.push(view);
    view.element.dataset.nodeType = node.comfyClass;
    fit(view);
    keepKeys(view.element);
    passWheel(view.element);
    const widget = node.addDOMWidget(name, "LGVI_VIEW", view.element, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => view.minHeight() + 2 * WIDGET_MARGIN,
    });
    widget.serialize = false;
    // The classic page's side panel would draw the widget too, and leave it at the panel's width.
    Object.defineProperty(widget.options, "canvasOnly", { get: () => !globalThis.LiteGraph?.vueNodesMode });
  }
  if (!views.length) return;
  viewsOf.set(node, views);
  node.setSize?.([Math.max(node.size[0], NODE_WIDTH), node.size[1]]);
  after(node, "onExecuted", (output) => show(node, output));
  after(node, "onRemoved", () => {
    views.forEach((view) => view.destroy());
    viewsOf.delete(node);
  });
}

/** Shows what the page still knows of earlier runs; keys are "node" or "subgraph:node". */
export function showOutputs(outputs) {
  const root = app.rootGraph ?? app.graph;
  for (const [key, output] of Object.entries(outputs ?? {})) {
    const [id, subgraph] = key.split(":").reverse();
    const node = (subgraph ? root?.subgraphs?.get?.(subgraph) : root)?.getNodeById(id);
    if (node) show(node, output);
  }
}

function show(node, output) {
  if (!output) return;
  for (const view of viewsOf.get(node) ?? []) {
    view.show(output);
    fit(view);
  }
  node.setDirtyCanvas?.(true, true);
}

/** The Vue renderer goes by the element's own height, the classic one asks through getMinHeight. */
function fit(view) {
  view.element.style.minHeight = `${view.minHeight()}px`;
}

/** Changes the graph as one step that the page's undo knows of. */
export function canvasChange(node, change) {
  app.canvas?.emitBeforeChange?.();
  change();
  app.canvas?.emitAfterChange?.();
  node.setDirtyCanvas?.(true, true);
}

/** Keys pressed in a view are the view's: Delete must not delete the node. Shortcuts with Ctrl pass. */
function keepKeys(element) {
  for (const type of ["keydown", "keyup"]) {
    element.addEventListener(type, (event) => {
      if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
    });
  }
}

/** The wheel zooms the graph, as everywhere; in the Vue renderer the node itself sees to it. */
function passWheel(element) {
  element.addEventListener("wheel", (event) => {
    const scrolls = event.target.closest?.("[data-capture-wheel]")?.contains(document.activeElement);
    if (scrolls || globalThis.LiteGraph?.vueNodesMode || !app.canvas?.processMouseWheel) return;
    event.preventDefault();
    app.canvas.processMouseWheel(event);
  });
}
