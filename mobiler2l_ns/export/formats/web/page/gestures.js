// Fingers, mouse and wheel become: drag, two-finger move, pinch, twist.

const FRICTION = 0.28; // seconds in which inertia falls to a third
const STILL = 8, SOON = 500; // CSS pixels that a tap may wander, milliseconds that it may last
const FASTEST = 1200; // CSS pixels a second that are left after lifting the finger

// handlers: drag(dx, dy), move(dx, dy), pinch(factor), twist(radians), in CSS pixels; begin(), end(); tap(x, y), where on
// the page, after its end(); glides(): whether a drag has inertia.
export function listen(element, handlers) {
  const fingers = new Map();
  let speed = [0, 0], last = 0, gliding = 0, secondary = false, tap = null;

  const glide = (before) => (now) => {
    const seconds = Math.min(0.05, (now - before) / 1000);
    speed = speed.map((value) => value * Math.exp(-seconds / FRICTION));
    handlers.drag(speed[0] * seconds, speed[1] * seconds);
    if (Math.hypot(...speed) > 15) gliding = requestAnimationFrame(glide(now));
    else stop();
  };
  const stop = () => {
    cancelAnimationFrame(gliding);
    gliding = 0;
    handlers.end();
  };

  element.addEventListener("pointerdown", (event) => {
    if (gliding) stop();
    element.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    secondary = event.button > 0 || event.shiftKey;
    speed = [0, 0];
    last = event.timeStamp;
    tap = fingers.size > 1 || secondary ? null : { x: event.clientX, y: event.clientY, since: event.timeStamp };
    handlers.begin();
  });

  element.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    if (tap && Math.hypot(now[0] - tap.x, now[1] - tap.y) > STILL) tap = null;
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    fingers.set(event.pointerId, now);
    if (fingers.size === 1) {
      if (secondary) return handlers.move(dx, dy);
      const seconds = Math.max(0.004, (event.timeStamp - last) / 1000);
      speed = [0.5 * (speed[0] + dx / seconds), 0.5 * (speed[1] + dy / seconds)];
      last = event.timeStamp;
      return handlers.drag(dx, dy);
    }
    if (fingers.size > 2) return;
    const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    const [was, is] = [before, now].map(([x, y]) => [x - other[0], y - other[1]]);
    handlers.move(dx / 2, dy / 2);
    handlers.pinch(Math.hypot(...is) / Math.max(1, Math.hypot(...was)));
    const twist = Math.atan2(is[1], is[0]) - Math.atan2(was[1], was[0]);
    handlers.twist(Math.atan2(Math.sin(twist), Math.cos(twist)));
  });

  const lift = (event) => {
    if (!fingers.delete(event.pointerId) || fingers.size) {
      speed = [0, 0];
      return;
    }
    const still = event.timeStamp - last > 60 || matchMedia("(prefers-reduced-motion: reduce)").matches;
    const fast = Math.hypot(...speed);
    speed = speed.map((value) => value * Math.min(1, FASTEST / fast));
    if (handlers.glides() && !secondary && !still && fast > 60) gliding = requestAnimationFrame(glide(performance.now()));
    else handlers.end();
    if (tap && event.type === "pointerup" && event.timeStamp - tap.since < SOON) handlers.tap(tap.x, tap.y);
    tap = null;
  };
  element.addEventListener("pointerup", lift);
  element.addEventListener("pointercancel", lift);
  element.addEventListener("contextmenu", (event) => event.preventDefault());

  let turning = 0;
  element.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (gliding) stop();
    if (!turning && !fingers.size) handlers.begin();
    clearTimeout(turning);
    turning = setTimeout(() => {
      turning = 0;
      if (!fingers.size) handlers.end(); // else the finger's lifting is the end
    }, 160);
    handlers.pinch(Math.exp(-event.deltaY * (event.deltaMode ? 0.04 : 0.0015)));
  }, { passive: false });
}
