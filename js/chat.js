import { element, line } from "./dom.js";

const EMPTY_HEIGHT = 48;
const FULL_HEIGHT = 140;
const SPEAKERS = { user: "You", assistant: "Answer" };

/** The conversation about the request, the prompt it led to, or a clear word that it led to none. */
export function chatView() {
  const turns = element("div", {
    class: "lgvi-turns",
    role: "log",
    "aria-label": "Conversation",
    tabindex: 0,
    "data-capture-wheel": "true",
  });
  const outcome = line("lgvi-message", { "data-testid": "lgvi-chat-outcome" });
  const full = element("div", { class: "lgvi-column", hidden: "" }, turns);
  const root = element("div", { class: "lgvi-view", "data-testid": "lgvi-chat" }, full, outcome.node);
  outcome.set("Run to see the conversation and the prompt here.", "hint");

  return {
    element: root,
    minHeight: () => (full.hidden ? EMPTY_HEIGHT : FULL_HEIGHT),
    show(output) {
      const data = output.lgvi_chat?.[0];
      if (!data) return;
      full.hidden = false;
      root.dataset.met = String(Boolean(data.met));
      turns.replaceChildren(...(data.turns ?? []).map(bubble));
      turns.scrollTop = turns.scrollHeight;
      if (data.met) outcome.set(`Prompt: ${data.prompt}`, "success");
      else outcome.set("The request was not met: the prompt is empty.", "error");
    },
    destroy() {},
  };
}

function bubble({ role, text }) {
  const speaker = SPEAKERS[role] ?? role;
  return element(
    "div",
    { class: `lgvi-bubble lgvi-${role === "user" ? "user" : "assistant"}`, "data-testid": "lgvi-chat-turn" },
    element("span", { class: "lgvi-speaker" }, speaker),
    element("p", {}, text),
  );
}
