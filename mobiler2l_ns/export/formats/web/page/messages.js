// What the page says.

const element = (id) => document.getElementById(id);
const [message, hint, readout] = ["message", "hint", "readout"].map(element);

export function say(text, isError = false) {
  message.textContent = text;
  message.hidden = !text;
  message.classList.toggle("error", isError);
}

// For a while; then what else is wrong, an error or nothing.
export function note(text, wrong) {
  say(text, true);
  setTimeout(() => say(wrong()?.message ?? "", Boolean(wrong())), 5000);
}

// Why it is not WebGPU that draws.
export function explain(error) {
  readout.title = `Time of the last frame; not by WebGPU: ${error.message}`;
}

export function showTime(ms, { width, height }, engine) {
  readout.textContent = `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms · ${width} × ${height}\n${engine.name}`;
}

export function showHint(text) {
  hint.textContent = text;
  hint.hidden = !text;
  hint.classList.remove("gone");
}

export function fadeHint() {
  hint.classList.add("gone");
}

export function download(blob, name) {
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10000);
}
