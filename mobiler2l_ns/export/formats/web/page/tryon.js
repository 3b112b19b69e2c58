import { showHint } from "./messages.js";

// Try-on: the object over the camera's picture. One finger places it, a pinch scales it, a twist turns it.

export class TryOn {
  constructor(video) {
    this.video = video;
    this.on = false;
    this.home();
  }

  home() {
    Object.assign(this, { x: 0, y: 0, scale: 0.7 });
  }

  // Throws where there is no camera or it is not allowed. stopped: called when the camera stops by itself later on.
  async start(stopped) {
    if (!navigator.mediaDevices) throw new Error("The camera needs a page that comes by https.");
    const wanted = { video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1080 } }, audio: false };
    this.video.srcObject = await navigator.mediaDevices.getUserMedia(wanted);
    for (const track of this.video.srcObject.getTracks()) track.addEventListener("ended", stopped);
    await this.play();
    this.video.hidden = false;
    this.on = true;
  }

  // Also after the page was in the background, where browsers pause the picture or take the camera away.
  async play() {
    try {
      await this.video.play();
      if (!this.video.srcObject?.active) throw new Error("it was taken away");
    } catch (error) {
      this.stop();
      throw error;
    }
  }

  stop() {
    for (const track of this.video.srcObject?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
    this.video.hidden = true;
    this.on = false;
  }

  place(dx, dy) {
    this.x += dx;
    this.y += dy;
  }

  resize(factor) {
    this.scale = Math.min(4, Math.max(0.1, this.scale * factor));
  }

  style(canvas) {
    canvas.style.transform = this.on ? `translate(${this.x}px, ${this.y}px) scale(${this.scale})` : "";
  }

  // What the stage shows, as a canvas: the camera's picture, cut as it is on the stage, and the object over it.
  //   picture: a canvas with the object; view: the element it is shown in.
  compose(picture, view, stage) {
    const { clientWidth: width, clientHeight: height } = stage;
    const { videoWidth, videoHeight } = this.video;
    const out = document.createElement("canvas");
    const density = Math.max(devicePixelRatio, Math.min(videoWidth / width, videoHeight / height));
    out.width = Math.round(width * density);
    out.height = Math.round(height * density);
    const context = out.getContext("2d");
    context.scale(out.width / width, out.height / height);
    const cover = Math.max(width / videoWidth, height / videoHeight);
    const [w, h] = [videoWidth * cover, videoHeight * cover];
    context.drawImage(this.video, (width - w) / 2, (height - h) / 2, w, h);
    const box = view.getBoundingClientRect(), frame = stage.getBoundingClientRect();
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, box.x - frame.x, box.y - frame.y, box.width, box.height);
    return out;
  }
}

// The button that begins and ends it. changed: called when the stage has another look; note: says what is wrong.
export class TryOnButton {
  constructor(button, tryOn, changed, note) {
    Object.assign(this, { button, tryOn, changed, note });
    button.addEventListener("click", () => this.toggle());
    document.addEventListener("visibilitychange", () => this.resume());
  }

  show() {
    const { button, tryOn: { on } } = this;
    button.setAttribute("aria-pressed", String(on));
    button.textContent = on ? "Leave AR" : "AR";
    showHint(on ? "Drag to place · pinch to scale · twist to turn" : "");
    this.changed();
  }

  leave(why = "") {
    this.tryOn.stop();
    this.show();
    if (why) this.note(why);
  }

  async toggle() {
    if (this.tryOn.on) return this.leave();
    this.button.disabled = true;
    try {
      await this.tryOn.start(() => this.leave("The camera has stopped."));
      this.show();
    } catch (error) {
      this.note(`No camera: ${error.message}`);
    }
    this.button.disabled = false;
  }

  resume() {
    if (document.hidden || !this.tryOn.on) return;
    this.tryOn.play().catch((error) => this.leave(`The camera has stopped: ${error.message}`));
  }
}
