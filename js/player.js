import { button, element } from "./dom.js";

/** A muted, looping video that shows its first frame. */
export function videoElement(attributes) {
  const video = element("video", { loop: "", playsinline: "", preload: "auto", ...attributes });
  video.muted = true;
  return video;
}

/**
 * Play, pause and a frame scrubber for videos that run together; the first one leads.
 *
 * `onFrame(frame)` is called for every frame shown, `onError()` when a video cannot be loaded.
 */
export class Player {
  constructor(videos, { onFrame = () => {}, onError = () => {} } = {}) {
    this.videos = videos;
    this.onFrame = onFrame;
    this.frames = 1;
    this.frameRate = 1;
    this.frame = 0;
    this.toggle = button("Play", "Play or pause", "lgvi-play", () => (this.playing ? this.pause() : this.play()));
    this.scrubber = element("input", {
      type: "range",
      min: 0,
      max: 0,
      step: 1,
      value: 0,
      title: "Frame",
      "aria-label": "Frame",
      "data-testid": "lgvi-scrubber",
      input: () => this.scrub(),
    });
    this.counter = element("output", { class: "lgvi-counter", "data-testid": "lgvi-frame" });
    this.element = element("div", { class: "lgvi-bar" }, this.toggle, this.scrubber, this.counter);
    for (const video of videos) {
      video.addEventListener("loadeddata", () => (video.currentTime = this.timeOf(this.frame)));
      video.addEventListener("error", () => video.hasAttribute("src") && onError());
    }
    for (const type of ["play", "pause"]) videos[0].addEventListener(type, () => this.update());
  }

  get playing() {
    return !this.videos[0].paused;
  }

  load(urls, frames, frameRate) {
    this.pause();
    this.frames = Math.max(1, frames);
    this.frameRate = frameRate > 0 ? frameRate : 1;
    this.scrubber.max = this.frames - 1;
    this.videos.forEach((video, i) => (video.src = urls[i]));
    this.showFrame(0);
  }

  seek(frame) {
    this.videos.forEach((video) => (video.currentTime = this.timeOf(frame)));
    this.showFrame(frame);
  }

  play() {
    // A pause or another file before the first frame rejects the promise; the button then shows what is true.
    Promise.all(this.videos.map((video) => video.play())).catch(() => this.update());
  }

  pause() {
    this.videos.forEach((video) => video.pause());
  }

  destroy() {
    cancelAnimationFrame(this.tick);
    this.pause();
    for (const video of this.videos) {
      video.removeAttribute("src");
      video.load();
    }
  }

  scrub() {
    this.pause();
    this.seek(this.scrubber.valueAsNumber);
  }

  /** The middle of a frame, in seconds: no rounding leads to its neighbour. */
  timeOf(frame) {
    return (frame + 0.5) / this.frameRate;
  }

  update() {
    this.toggle.textContent = this.playing ? "Pause" : "Play";
    cancelAnimationFrame(this.tick);
    if (this.playing) this.follow();
    else this.seek(this.frame);
  }

  follow() {
    const [leader, ...others] = this.videos;
    for (const video of others) {
      if (!video.seeking && Math.abs(video.currentTime - leader.currentTime) > 1 / this.frameRate)
        video.currentTime = leader.currentTime;
    }
    this.showFrame(Math.min(Math.floor(leader.currentTime * this.frameRate), this.frames - 1));
    this.tick = requestAnimationFrame(() => this.follow());
  }

  showFrame(frame) {
    this.frame = frame;
    this.scrubber.value = frame;
    this.counter.textContent = `${frame + 1} / ${this.frames}`;
    this.onFrame(frame);
  }
}
