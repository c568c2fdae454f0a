import { app } from "../../scripts/app.js";
import { chatView } from "./chat.js";
import { compareView } from "./compare.js";
import { attachViews, loadStyle, showOutputs } from "./host.js";
import { maskView } from "./mask.js";
import { regionView } from "./region.js";

const VIEWS = {
  LGVIVideoInpaintSampler: { lgvi_compare: compareView },
  LGVIKeyframePropagate: { lgvi_compare: compareView },
  LGVIMaskDecoderPreview: { lgvi_mask: maskView, lgvi_region: regionView },
  LGVIRequestToPrompt: { lgvi_chat: chatView, lgvi_region: regionView },
};

app.registerExtension({
  name: "lgvi.views",
  setup: loadStyle,
  nodeCreated(node) {
    attachViews(node, VIEWS[node.comfyClass] ?? {});
  },
  afterConfigureGraph() {
    showOutputs(app.nodeOutputs);
  },
  onNodeOutputsUpdated: showOutputs,
});
