/** Makes an element: functions become listeners, other values attributes; false and null are left out. */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svgElement(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export function button(text, title, testId, click) {
  return element(
    "button",
    { type: "button", class: "lgvi-button", title, "aria-label": title, "data-testid": testId, click },
    text,
  );
}

/** A line of text that is hidden while empty; its kind (hint, success, warning, error) gives the colour. */
export function line(className, attributes = {}) {
  const node = element("div", { class: className, role: "status", hidden: "", ...attributes });
  return {
    node,
    set(text, kind = "") {
      node.textContent = text ?? "";
      node.hidden = !text;
      node.dataset.kind = kind;
    },
  };
}

/** A box with the picture's shape, as large as the place allows; `setRatio` takes width / height. */
export function stage(...children) {
  const picture = element("div", { class: "lgvi-picture" }, ...children);
  return {
    node: element("div", { class: "lgvi-stage" }, picture),
    setRatio(ratio) {
      if (ratio > 0) picture.style.setProperty("--lgvi-ratio", ratio);
    },
  };
}
